// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/placement"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
)

// scene is one group as the API has it: nodes with agents, and Services that share addresses.
type scene struct {
	nodes    []*corev1.Node
	agents   []*v1alpha1.NodeAgent
	ads      []*v1alpha1.L2Advertisement
	services []wished
}

type wished struct {
	addrs []string
	ads   []string
}

func drawScene(t *rapid.T) scene {
	var s scene
	sometimes := func(label string) bool { return rapid.IntRange(0, 4).Draw(t, label) == 0 }
	for i := range rapid.IntRange(1, 4).Draw(t, "nodes") {
		name := fmt.Sprintf("n%d", i)
		s.nodes = append(s.nodes, testNode(name, func(n *corev1.Node) {
			if sometimes("excluded") {
				n.Labels[corev1.LabelNodeExcludeBalancers] = ""
			}
			if sometimes("networkUnavailable") {
				n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue})
			}
			if sometimes("shuttingDown") {
				shutDown(n)
			}
			n.Spec.Unschedulable = rapid.Bool().Draw(t, "cordoned")
		}))
		var prefixes []string
		for _, p := range []string{"10.0.0.%d/24", "10.1.0.%d/24", "10.0.0.%d/32"} {
			if rapid.Bool().Draw(t, "prefix") {
				prefixes = append(prefixes, fmt.Sprintf(p, i+1))
			}
		}
		agent := testAgent(name, prefixes...)
		if rapid.Bool().Draw(t, "eth1") {
			agent.Status.Interfaces = append(agent.Status.Interfaces, v1alpha1.NodeInterface{Name: "eth1", Prefixes: []string{fmt.Sprintf("10.1.0.%d/24", i+1)}})
		}
		s.agents = append(s.agents, agent)
	}
	for i := range rapid.IntRange(1, 3).Draw(t, "ads") {
		ad := &v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("ad%d", i)}}
		if rapid.Bool().Draw(t, "selects") {
			ad.Spec.NodeSelectors = []metav1.LabelSelector{{MatchExpressions: []metav1.LabelSelectorRequirement{{
				Key: "kubernetes.io/hostname", Operator: metav1.LabelSelectorOpIn,
				Values: rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"n0", "n1", "n2"}), 1, 3, rapid.ID[string]).Draw(t, "values"),
			}}}}
		}
		if sometimes("interfaces") {
			ad.Spec.Interfaces = []string{rapid.SampledFrom([]string{"eth0", "eth1", "eth2"}).Draw(t, "interface")}
		}
		s.ads = append(s.ads, ad)
	}
	names := []string{"ad0", "ad1", "ad2"}[:len(s.ads)]
	for range rapid.IntRange(1, 2).Draw(t, "services") {
		s.services = append(s.services, wished{
			addrs: rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"10.0.0.200", "10.1.0.200"}), 1, 2, rapid.ID[string]).Draw(t, "addrs"),
			ads:   rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, len(names), rapid.ID[string]).Draw(t, "of"),
		})
	}
	return s
}

// proposed are the nodes that the controller would have announce the group.
func (s scene) proposed(t *rapid.T) []loadbalancer.NodeName {
	w := &world{}
	for i, n := range s.nodes {
		out := convertNode(n, s.agents[i])
		out.index = i
		w.nodes = append(w.nodes, out)
	}
	ads := map[string]*advertisement{}
	for _, ad := range s.ads {
		a, err := convert.L2Advertisement(ad)
		if err != nil {
			t.Fatal(err)
		}
		ads[ad.Name] = selectNodes(a, w.nodes)
	}
	var wishes []wish
	for _, svc := range s.services {
		var one wish
		for _, a := range svc.addrs {
			one.addrs = append(one.addrs, netip.MustParseAddr(a))
		}
		for _, name := range svc.ads {
			one.ads = append(one.ads, ads[name])
		}
		wishes = append(wishes, one)
	}
	var cache ableCache
	cache.of(w, []target{{addr: netip.MustParseAddr("10.0.0.7"), wishes: [][]*advertisement{wishes[0].ads}}}) // must not matter
	var free, cordoned []loadbalancer.NodeName
	for _, i := range cache.of(w, targetsOf(wishes)) {
		if n := &w.nodes[i]; n.facts.Cordoned {
			cordoned = append(cordoned, n.name)
		} else {
			free = append(free, n.name)
		}
	}
	if len(free) > 0 {
		return free
	}
	return cordoned
}

// accepted are the nodes that agents would have announce the group, were they proposed.
func (s scene) accepted(t *rapid.T) []loadbalancer.NodeName {
	snap := plan.Snapshot{
		Records: map[loadbalancer.ServiceUID]loadbalancer.Record{}, Advertisements: map[string]loadbalancer.Advertisement{},
		Nodes: map[loadbalancer.NodeName]loadbalancer.Node{}, Members: map[loadbalancer.NodeName]plan.Member{},
	}
	var labels []convert.NodeLabels
	for i, n := range s.nodes {
		facts := convert.Node(n)
		snap.Nodes[facts.Name] = facts
		labels = append(labels, convert.NodeLabels{Name: facts.Name, Labels: n.Labels})
		m := plan.Member{Known: true}
		for _, itf := range s.agents[i].Status.Interfaces {
			out := loadbalancer.Interface{Name: itf.Name}
			for _, p := range itf.Prefixes {
				out.Prefixes = append(out.Prefixes, netip.MustParsePrefix(p))
			}
			m.Interfaces = append(m.Interfaces, out)
		}
		snap.Members[facts.Name] = m
	}
	for _, ad := range s.ads {
		a, err := convert.Resolve(ad, labels)
		if err != nil {
			t.Fatal(err)
		}
		snap.Advertisements[a.Name] = a
	}
	claims := map[netip.Addr]*loadbalancer.Claim{}
	for i, svc := range s.services {
		r := loadbalancer.Record{UID: loadbalancer.ServiceUID(fmt.Sprint(i)), Advertisements: svc.ads}
		for _, text := range svc.addrs {
			a := netip.MustParseAddr(text)
			r.Addrs = append(r.Addrs, a)
			if claims[a] == nil {
				claims[a] = &loadbalancer.Claim{Name: loadbalancer.Group(text), Addr: a, Group: "g"}
			}
			claims[a].Services = append(claims[a].Services, r.UID)
		}
		snap.Records[r.UID] = r
	}
	var out []loadbalancer.NodeName
	for _, n := range s.nodes {
		name := loadbalancer.NodeName(n.Name)
		snap.Self, snap.Claims = name, nil
		for _, c := range claims {
			c.Successors = []loadbalancer.NodeName{name}
			snap.Claims = append(snap.Claims, *c)
		}
		if plan.For(snap).Groups["g"].Action == placement.TakeOver {
			out = append(out, name)
		}
	}
	return out
}

// The controller proposes just the nodes whose agents would accept: the rules are written
// twice, for speed, and must be one.
func TestTheControllersRulesAreTheAgents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawScene(t)
		proposed, accepted := s.proposed(t), s.accepted(t)
		if !slices.Equal(proposed, accepted) {
			t.Fatalf("controller proposes %v, agents accept %v", proposed, accepted)
		}
	})
}
