// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"cmp"
	"context"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// kernelSettings is what of the kernel may need to be set.
type kernelSettings interface {
	kernelSysctls
	ARPSettings() (map[string]kernel.ARPSettings, error)
	SetARP(s kernel.ARPSettings) error
	LocalIPv4() (map[netip.Addr][]string, error)
}

const (
	// silentIgnore has the kernel answer for the addresses of the link that was asked only.
	silentIgnore = 1
	// silentAnnounce has it never name another link's address as its own: who hears "who
	// has the client, tell the VIP" takes the VIP to be there.
	silentAnnounce = 2
	// maxSettings is what NodeAgent.status.kernelSettings holds.
	maxSettings = 512
)

// settings keep this node's kernel from answering by itself for addresses of Services that
// are on another of its links: kube-proxy in its ipvs mode has them all on kube-ipvs0, on
// every node, and others put them on lo. IPv6 needs nothing of the kind: a kernel answers a
// solicitation only for addresses of the link that it came in on.
type settings struct {
	// elsewhere are the node's IPv4 addresses on links that do not announce.
	elsewhere map[netip.Addr]string
	// silent says that the kernel is being kept silent; it stays so until the agent leaves,
	// because the addresses may come back any moment.
	silent bool
	// restored says that it is over.
	restored bool
	// looked is when the links were listed that all this was done for.
	looked time.Time
	// refused are the links that cannot be set, by name, with their index: another try would
	// only be recorded and taken back again.
	refused map[string]int
	// forwarding says that addresses of Services are on this node's own link, or will be:
	// then every link is kept silent on which other hosts may ask, not only those that
	// announce. muted says that this is done, deaf is a link that it could not be done for.
	forwarding, muted bool
	deaf              string
}

// podLinks are the names of links that lead to this node's own containers, and of the
// loopback: whoever asks there may ask for any address.
var podLinks = regexp.MustCompile(defaultExclude)

// silence keeps the kernel silent from when an address of a claim is on another link on, or
// is about to be: forwarding says so. It looks again when links were listed again, and at
// nothing else.
func (l *loop) silence(ctx context.Context, claims []loadbalancer.Claim, forwarding bool) {
	all, known := l.a.report.KernelSettings()
	if !known || l.settings.restored {
		return
	}
	recorded := slices.DeleteFunc(slices.Clone(all), isSysctl)
	fresh := !l.settings.looked.Equal(l.lastLinks)
	if forwarding && !l.settings.forwarding {
		l.settings.silent, l.settings.forwarding, fresh = true, true, true
	}
	if !l.settings.silent {
		if fresh && !l.lookElsewhere(ctx) {
			return
		}
		a, on, found := l.settings.find(claims)
		if !found && len(recorded) == 0 {
			l.settings.looked = l.lastLinks
			return
		}
		if found {
			klog.FromContext(ctx).Info("The kernel has an address of a Service on another link; keeping it from answering for it by itself",
				"address", a, "interface", on)
		}
		l.settings.silent, fresh = true, true
	}
	if !fresh {
		return
	}
	have, err := l.a.d.kernel.ARPSettings()
	if err != nil {
		klog.FromContext(ctx).Error(err, "Cannot read the links' ARP settings")
		return
	}
	want, record := l.toSilence(have, all)
	// What is not recorded could not be restored after a crash, so it is recorded first.
	// The report wakes the loop when it is.
	if !l.a.report.SetKernelSettings(record) {
		l.settings.looked = time.Time{}
		return
	}
	l.settings.looked = l.lastLinks
	done := l.setSilent(ctx, have, want)
	l.settings.muted, l.settings.deaf = l.settings.forwarding, l.deafLink(have)
	if done {
		return
	}
	l.a.report.SetKernelSettings(slices.DeleteFunc(record, func(r v1alpha1.KernelSetting) bool {
		link, name := settingOf(r.Name)
		s := have[link]
		_, tried := want[link]
		inForce := name == ignoreSetting && decimal(s.Ignore) == r.Value || name == announceSetting && decimal(s.Announce) == r.Value
		return tried && s.Index == l.settings.refused[link] && !inForce
	}))
}

// lookElsewhere lists the addresses of links that do not announce.
func (l *loop) lookElsewhere(ctx context.Context) bool {
	local, err := l.a.d.kernel.LocalIPv4()
	if err != nil {
		klog.FromContext(ctx).Error(err, "Cannot list addresses")
		return false
	}
	announces := make(map[string]struct{}, len(l.links))
	for _, k := range l.links {
		announces[k.Name] = struct{}{}
	}
	l.settings.elsewhere = make(map[netip.Addr]string)
	for a, links := range local {
		for _, name := range links {
			if _, ok := announces[name]; !ok {
				l.settings.elsewhere[a] = name
			}
		}
	}
	return true
}

// find returns an address of a claim that is on a link that does not announce.
func (s *settings) find(claims []loadbalancer.Claim) (addr netip.Addr, link string, found bool) {
	if len(s.elsewhere) == 0 {
		return netip.Addr{}, "", false
	}
	for i := range claims {
		if on, ok := s.elsewhere[claims[i].Addr]; ok && !claims[i].Releasing {
			return claims[i].Addr, on, true
		}
	}
	return netip.Addr{}, "", false
}

// toSilence returns the settings of links that are lower than they should be, as they are
// to be, and the record with them: what is changed, or was before, of links that are there.
func (l *loop) toSilence(have map[string]kernel.ARPSettings, recorded []v1alpha1.KernelSetting) (map[string]kernel.ARPSettings, []v1alpha1.KernelSetting) {
	record := make(map[string]v1alpha1.KernelSetting, len(recorded))
	for _, r := range recorded {
		link, _ := settingOf(r.Name)
		if _, there := have[link]; there || isSysctl(r) {
			record[r.Name] = r
		}
	}
	wanted := make(map[string]kernel.ARPSettings)
	for _, name := range l.mayBeAsked(have) {
		was := have[name]
		want := kernel.ARPSettings{Index: was.Index, Ignore: max(was.Ignore, silentIgnore), Announce: max(was.Announce, silentAnnounce)}
		if refused, no := l.settings.refused[name]; no && refused == was.Index || was == want || len(record)+2 > maxSettings {
			continue
		}
		wanted[name] = want
		note(record, name, ignoreSetting, was.Ignore, want.Ignore)
		note(record, name, announceSetting, was.Announce, want.Announce)
	}
	out := make([]v1alpha1.KernelSetting, 0, len(record))
	for _, r := range record {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b v1alpha1.KernelSetting) int { return cmp.Compare(a.Name, b.Name) })
	return wanted, out
}

// mayBeAsked are the links, ascending, on which other hosts may ask for addresses of
// Services: those that announce, and where the addresses are on this node's own link, all
// that do not lead to its containers.
func (l *loop) mayBeAsked(have map[string]kernel.ARPSettings) []string {
	asked := make(map[string]struct{}, len(l.links))
	for _, k := range l.links {
		asked[k.Name] = struct{}{}
	}
	return slices.Sorted(func(yield func(string) bool) {
		for name := range have {
			_, announces := asked[name]
			if (announces || l.settings.forwarding && !podLinks.MatchString(name)) && !yield(name) {
				return
			}
		}
	})
}

// deafLink is one of them that could not be set, empty if all are.
func (l *loop) deafLink(have map[string]kernel.ARPSettings) string {
	for _, name := range l.mayBeAsked(have) {
		if refused, no := l.settings.refused[name]; no && refused == have[name].Index {
			return name
		}
	}
	return ""
}

// setSilent makes the settings and says whether it could make them all.
func (l *loop) setSilent(ctx context.Context, have, want map[string]kernel.ARPSettings) bool {
	all := true
	for name, s := range want {
		err := l.a.d.kernel.SetARP(s)
		if err == nil {
			klog.FromContext(ctx).Info("Set arp_ignore and arp_announce", "interface", name, "formerIgnore", have[name].Ignore, "formerAnnounce", have[name].Announce)
			continue
		}
		all = false
		if l.settings.refused == nil {
			l.settings.refused = make(map[string]int)
		}
		l.settings.refused[name] = s.Index
		klog.FromContext(ctx).Error(err, "Cannot keep the kernel from answering for addresses of Services; set arp_ignore=1 and arp_announce=2 on this link by other means",
			"interface", name)
	}
	return all
}

const (
	ignoreSetting   = "arp_ignore"
	announceSetting = "arp_announce"
	settingPrefix   = "net/ipv4/conf/"
)

// note records a change, with the value from before the first one.
func note(record map[string]v1alpha1.KernelSetting, link, name string, was, value int32) {
	full := settingPrefix + link + "/" + name
	if _, again := record[full]; !again && was != value {
		record[full] = v1alpha1.KernelSetting{Name: full, Former: decimal(was), Value: decimal(value)}
	}
}

func decimal(n int32) string { return strconv.FormatInt(int64(n), 10) }

// settingOf takes the name of a setting apart: net/ipv4/conf/eth0.5/arp_ignore.
func settingOf(full string) (link, name string) {
	rest := strings.TrimPrefix(full, settingPrefix)
	i := strings.LastIndexByte(rest, '/')
	if i < 0 {
		return "", ""
	}
	return rest[:i], rest[i+1:]
}

// restoreKernel sets back what this run or an earlier one changed, unless somebody changed
// it since. It is for an agent that leaves for good.
func (l *loop) restoreKernel(ctx context.Context) {
	recorded, known := l.a.report.KernelSettings()
	l.settings.restored = true
	if !known || len(recorded) == 0 {
		return
	}
	left := append(l.restoreARP(ctx, recorded), l.restoreSysctls(ctx, recorded)...)
	slices.SortFunc(left, func(a, b v1alpha1.KernelSetting) int { return cmp.Compare(a.Name, b.Name) })
	l.a.report.SetKernelSettings(left)
}

// restoreARP restores the settings of links and returns those that it could not.
func (l *loop) restoreARP(ctx context.Context, recorded []v1alpha1.KernelSetting) []v1alpha1.KernelSetting {
	have, err := l.a.d.kernel.ARPSettings()
	if err != nil {
		klog.FromContext(ctx).Error(err, "Cannot read the links' ARP settings; they stay")
		return slices.DeleteFunc(slices.Clone(recorded), isSysctl)
	}
	want := make(map[string]kernel.ARPSettings)
	for _, r := range recorded {
		link, name := settingOf(r.Name)
		s, ok := want[link]
		if !ok {
			if s, ok = have[link]; !ok {
				continue
			}
		}
		want[link] = restored(s, name, r)
	}
	var left []v1alpha1.KernelSetting
	for link, s := range want {
		if s == have[link] {
			continue
		}
		if err := l.a.d.kernel.SetARP(s); err != nil {
			klog.FromContext(ctx).Error(err, "Cannot restore arp_ignore and arp_announce", "interface", link)
			left = append(left, slices.DeleteFunc(slices.Clone(recorded), func(r v1alpha1.KernelSetting) bool {
				on, _ := settingOf(r.Name)
				return on != link
			})...)
		}
	}
	return left
}

// restored is s with one setting as it was, if it still is what it was set to.
func restored(s kernel.ARPSettings, name string, r v1alpha1.KernelSetting) kernel.ARPSettings {
	n, err := strconv.ParseInt(r.Former, 10, 32)
	former := int32(n)
	switch {
	case err != nil:
	case name == ignoreSetting && decimal(s.Ignore) == r.Value:
		s.Ignore = former
	case name == announceSetting && decimal(s.Announce) == r.Value:
		s.Announce = former
	}
	return s
}
