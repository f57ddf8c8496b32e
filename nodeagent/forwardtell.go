// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

const (
	// maxWaiting is what NodeAgent.status.dataPlane.waiting holds, maxMessage what a message
	// there does.
	maxWaiting = 64
	maxMessage = 1024
	// revisionPace is how often the revision is told although no record's spec changed: the
	// controller writes the statuses of records too, and every write of thousands is a new
	// revision.
	revisionPace = 30 * time.Second
)

// told is the state for people and for the controller, without the revision.
func (f *forwarder) told() v1alpha1.DataPlaneStatus {
	s := v1alpha1.DataPlaneStatus{KubeProxyMode: string(f.around.KubeProxy)}
	switch {
	case f.against != "":
		s.Forwarding, s.Reason, s.Message = v1alpha1.ForwardingKubeProxy, f.against.String(), short(f.message)
		return s
	case !f.programmed:
		return v1alpha1.DataPlaneStatus{}
	}
	s.Forwarding, s.Message = v1alpha1.ForwardingIPVS, short(f.around.Message)
	switch i := slices.IndexFunc(f.have.VIPs, func(a netip.Addr) bool { return !f.around.Excludes(a) }); {
	case f.err != nil:
		s.Reason, s.Message = reason.KernelRefuses.String(), short(f.err.Error())
	case i >= 0:
		s.Reason, s.Message = reason.KubeProxyExcludeCIDRs.String(), excludeMessage(f.have.VIPs[i])
	}
	s.VirtualServers = int32(min(len(f.done.VirtualServers)-len(f.refused), math.MaxInt32)) //nolint:gosec // bounded
	s.Waiting = f.waiting()
	if n := len(s.Waiting); n > maxWaiting {
		// Who reads it would take those that do not fit in for programmed.
		s.Forwarding, s.Reason, s.Waiting = v1alpha1.ForwardingKubeProxy, reason.KernelRefuses.String(), s.Waiting[:maxWaiting]
		s.Message = fmt.Sprintf("the kernel refuses %d Services, more than can be listed; the others are forwarded", n)
	}
	return s
}

// short bounds a message.
func short(s string) string { return s[:min(len(s), maxMessage)] }

func excludeMessage(a netip.Addr) string {
	return fmt.Sprintf("kube-proxy in its ipvs mode removes virtual servers that it did not make: have ipvs.excludeCIDRs in its configuration name the ranges of the address pools (%s is in none); until then they are put back each time", a)
}

// waiting are the records of what was refused, ascending.
func (f *forwarder) waiting() []v1alpha1.WaitingRecord {
	if len(f.refused) == 0 && len(f.unbound) == 0 {
		return nil
	}
	records := make(map[loadbalancer.ServiceKey]v1alpha1.WaitingRecord)
	add := func(s loadbalancer.ServiceKey, err error) {
		if _, known := records[s]; !known && err != nil {
			records[s] = v1alpha1.WaitingRecord{Name: s.String(), Reason: reason.KernelRefuses.String(), Message: short(err.Error())}
		}
	}
	for _, r := range f.refused {
		add(r.Service, r.Err)
	}
	for i := range f.done.VirtualServers {
		add(f.done.VirtualServers[i].Service, f.unbound[f.done.VirtualServers[i].Addr])
	}
	out := slices.SortedFunc(maps.Values(records), func(a, b v1alpha1.WaitingRecord) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// same says whether there is nothing new for the loop.
func (s *planeState) same(o *planeState) bool {
	return s.decided == o.decided && s.forwards == o.forwards && s.spec == o.spec && reflect.DeepEqual(s.told, o.told) &&
		slices.Equal(s.programmed.VIPs, o.programmed.VIPs)
}

// revisions tell which records were planned for: the API server counts every change of any
// object, so that all records up to a number are known by the highest one seen.
type revisions struct {
	known map[loadbalancer.ServiceUID]loadbalancer.Record
	// highest of all records, spec that of the last one whose spec changed.
	highest, spec uint64
	// shown is the last one told.
	shown   uint64
	shownAt time.Time
}

// note takes the records of a round, of which changed says which are others than before; nil:
// any.
func (r *revisions) note(records map[loadbalancer.ServiceUID]loadbalancer.Record, changed *loadbalancer.Changes) {
	if r.known == nil {
		r.known = make(map[loadbalancer.ServiceUID]loadbalancer.Record, len(records))
		changed = nil
	}
	if changed != nil && !changed.All {
		for uid := range changed.Records {
			if rec, there := records[uid]; there {
				r.noteOne(uid, rec)
			} else {
				delete(r.known, uid)
			}
		}
		return
	}
	for uid, rec := range records {
		r.noteOne(uid, rec)
	}
	if len(r.known) > len(records) {
		maps.DeleteFunc(r.known, func(uid loadbalancer.ServiceUID, _ loadbalancer.Record) bool { _, ok := records[uid]; return !ok })
	}
}

func (r *revisions) noteOne(uid loadbalancer.ServiceUID, rec loadbalancer.Record) {
	before, known := r.known[uid]
	if known && before.Revision == rec.Revision {
		return
	}
	r.known[uid] = rec
	n, err := strconv.ParseUint(rec.Revision, 10, 64)
	if err != nil {
		return
	}
	r.highest = max(r.highest, n)
	before.Revision = rec.Revision
	if !known || !reflect.DeepEqual(before, rec) {
		r.spec = max(r.spec, n)
	}
}

// show is the revision to tell: that of what is programmed, at once when a spec changed.
func (r *revisions) show(now time.Time, s *planeState) string {
	if s.spec > r.shown || s.revision > r.shown && now.Sub(r.shownAt) >= revisionPace {
		r.shown, r.shownAt = s.revision, now
	}
	if r.shown == 0 {
		return ""
	}
	return strconv.FormatUint(r.shown, 10)
}

// dataPlane is NodeAgent.status.dataPlane.
func (l *loop) dataPlane(now time.Time) v1alpha1.DataPlaneStatus {
	st := l.a.forward.State()
	s := st.told
	switch {
	case s.Forwarding != v1alpha1.ForwardingIPVS:
	case l.leaving:
		return v1alpha1.DataPlaneStatus{
			Forwarding: v1alpha1.ForwardingKubeProxy, Reason: reason.Leaving.String(), Message: leavingMessage, KubeProxyMode: s.KubeProxyMode,
		}
	default:
		s.Revision = l.revisions.show(now, st)
	}
	return s
}
