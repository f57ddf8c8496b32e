// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
)

// readAll is how often all copies are looked at, although events tell which are new.
const readAll = time.Minute

// Objects are the copies as domain values. See plan.Snapshot for the fields. They must not be
// changed; Claims, Records and Endpoints are valid until the next Objects only.
type Objects struct {
	Claims         []loadbalancer.Claim
	Records        map[loadbalancer.ServiceUID]loadbalancer.Record
	Advertisements map[string]loadbalancer.Advertisement
	Nodes          map[loadbalancer.NodeName]loadbalancer.Node
	Endpoints      map[loadbalancer.ServiceKey]loadbalancer.Endpoints
	// Changed says what of Claims, Records and Endpoints changed since the last Objects; nil:
	// nobody knows.
	Changed *loadbalancer.Changes
}

// claim is a converted claim; ok is false when it cannot be understood.
type claim struct {
	loadbalancer.Claim
	ok bool
}

// usable is the claim, nil if there is none to speak of.
func (c *claim) usable() *loadbalancer.Claim {
	if c == nil || !c.ok {
		return nil
	}
	return &c.Claim
}

// node is a converted Node, with its labels and the weight of its real servers, 0 for none.
type node struct {
	loadbalancer.Node
	labels map[string]string
	weight uint16
}

// Objects converts all copies. What cannot be understood is logged once and left out. It costs
// time in proportion to what changed since the last one, and to the nodes and advertisements if
// one of those did.
func (i *Intake) Objects(ctx context.Context) Objects {
	i.converting.Lock()
	defer i.converting.Unlock()
	i.last.Changed = &loadbalancer.Changes{}
	all := i.allRead.IsZero() || time.Since(i.allRead) >= readAll
	if all {
		i.allRead = time.Now()
	}
	i.readClaims(ctx, all)
	nodes := i.readNodes(ctx, all)
	services := i.readRecords(ctx, all)
	i.readEndpoints(ctx, all, nodes, services)
	i.readAdvertisements(ctx, all, nodes)
	return i.last
}

func (i *Intake) readClaims(ctx context.Context, all bool) {
	convert := func(c *v1alpha1.IPClaim) claim { return i.claim(ctx, c) }
	i.knownClaims.read(all, convert, func(before, now *claim) {
		is := loadbalancer.ClaimChange{Before: before.usable(), Now: now.usable()}
		at, name := 0, loadbalancer.Group("")
		switch {
		case is.Before != nil:
			name = is.Before.Name
			at = i.claimAt[name]
		case is.Now != nil:
			name = is.Now.Name
			at = len(i.last.Claims)
			i.last.Claims = append(i.last.Claims, loadbalancer.Claim{})
		default:
			return
		}
		if is.Now != nil {
			i.last.Claims[at], i.claimAt[name] = *is.Now, at
			if is.Before == nil || !reflect.DeepEqual(*is.Before, *is.Now) {
				i.last.Changed.Claim(name, is)
			}
			return
		}
		last := len(i.last.Claims) - 1
		i.last.Claims[at] = i.last.Claims[last]
		i.claimAt[i.last.Claims[at].Name] = at
		i.last.Claims = slices.Delete(i.last.Claims, last, last+1)
		delete(i.claimAt, name)
		i.last.Changed.Claim(name, is)
	})
}

// readRecords returns the Services of records that are new, others or gone.
func (i *Intake) readRecords(ctx context.Context, all bool) map[loadbalancer.ServiceKey]struct{} {
	services := make(map[loadbalancer.ServiceKey]struct{})
	convert := func(lb *v1alpha1.LoadBalancer) loadbalancer.Record { return i.record(ctx, lb) }
	i.knownRecords.read(all, convert, func(before, now *loadbalancer.Record) {
		if before != nil {
			services[before.Service] = struct{}{}
			delete(i.last.Records, before.UID)
			i.last.Changed.Record(before.UID)
		}
		if now != nil {
			services[now.Service] = struct{}{}
			i.last.Records[now.UID] = *now
			i.last.Changed.Record(now.UID)
		}
	})
	if len(services) > 0 && len(i.last.Records) != len(i.knownRecords.known) {
		i.recordsAnew()
	}
	return services
}

// recordsAnew is for several records of one UID, which no controller makes: the first by name
// has it.
func (i *Intake) recordsAnew() {
	clear(i.last.Records)
	for _, key := range slices.Sorted(maps.Keys(i.knownRecords.known)) {
		r := i.knownRecords.known[key].value
		if _, taken := i.last.Records[r.UID]; !taken {
			i.last.Records[r.UID] = *r
		}
	}
	i.last.Changed.All = true
}

// readNodes says whether any node is another than before.
func (i *Intake) readNodes(ctx context.Context, all bool) bool {
	others := i.last.Nodes == nil
	i.knownNodes.read(all, func(n *corev1.Node) node { return i.node(ctx, n) }, func(before, now *node) {
		others = others || before == nil || now == nil || !reflect.DeepEqual(*before, *now)
	})
	if !others {
		return false
	}
	i.last.Nodes = make(map[loadbalancer.NodeName]loadbalancer.Node, len(i.knownNodes.known))
	for _, known := range i.knownNodes.known {
		i.last.Nodes[known.value.Name] = known.value.Node
	}
	return true
}

// weights are those of the nodes that have one.
func (i *Intake) weights() map[loadbalancer.NodeName]uint16 {
	out := make(map[loadbalancer.NodeName]uint16)
	for _, known := range i.knownNodes.known {
		if v := known.value; v.weight > 0 {
			out[v.Name] = v.weight
		}
	}
	return out
}

func (i *Intake) readAdvertisements(ctx context.Context, all, others bool) {
	i.knownAds.read(all, func(a *v1alpha1.L2Advertisement) *v1alpha1.L2Advertisement { return a }, func(_, _ **v1alpha1.L2Advertisement) { others = true })
	if !others {
		return
	}
	labels := make([]convert.NodeLabels, 0, len(i.knownNodes.known))
	for _, known := range i.knownNodes.known {
		labels = append(labels, convert.NodeLabels{Name: known.value.Name, Labels: known.value.labels})
	}
	i.last.Advertisements = make(map[string]loadbalancer.Advertisement)
	for _, known := range i.knownAds.known {
		ad, err := convert.Resolve(known.object, labels)
		i.report(ctx, "L2Advertisement "+known.object.Name, err)
		if err == nil {
			i.last.Advertisements[ad.Name] = ad
		}
	}
}

func (i *Intake) node(ctx context.Context, n *corev1.Node) node {
	weight, err := convert.Weight(n.Annotations)
	i.report(ctx, "Node "+n.Name, err)
	return node{convert.Node(n), n.Labels, weight}
}

func (i *Intake) claim(ctx context.Context, c *v1alpha1.IPClaim) claim {
	out, err := convert.Claim(c)
	i.report(ctx, "IPClaim "+c.Name, err)
	return claim{out, err == nil}
}

func (i *Intake) record(ctx context.Context, lb *v1alpha1.LoadBalancer) loadbalancer.Record {
	out, err := convert.Record(lb)
	i.report(ctx, "LoadBalancer "+lb.Namespace+"/"+lb.Name, err)
	return out
}
