// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// routed is the base cluster with the Service told by BGP alone, to a router in another AS
// and to a route reflector in this one.
func routed() plan.Snapshot {
	s := base()
	s.BGP = loadbalancer.BGPConfig{
		Sessions: []loadbalancer.BGPSession{
			{Peer: "reflector", MyASN: 64512, PeerASN: 64512, Addr: addr("10.0.0.253"), Port: 179, IPv4: true, IPv6: true, Password: "hidden"},
			{Peer: "tor", MyASN: 64512, PeerASN: 64513, Addr: addr("10.0.0.254"), Port: 179, IPv4: true, IPv6: true},
		},
		Advertisements: map[string]loadbalancer.BGPAdvertisement{},
	}
	advertise(&s, "bgp", func(*loadbalancer.BGPAdvertisement) {})
	record(s, func(r *loadbalancer.Record) { r.Advertisements, r.BGPAdvertisements = nil, []string{"bgp"} })
	return s
}

// advertise changes an advertisement of VIPs alone, or adds it.
func advertise(s *plan.Snapshot, name string, change func(a *loadbalancer.BGPAdvertisement)) {
	a, ok := s.BGP.Advertisements[name]
	if !ok {
		a = loadbalancer.BGPAdvertisement{Name: name, Here: true, Bits4: 32, Bits6: 128}
	}
	change(&a)
	s.BGP.Advertisements[name] = a
}

func aggregate(a *loadbalancer.BGPAdvertisement) { a.Bits4, a.Bits6 = 24, 64 }

func localPref(value uint32) func(a *loadbalancer.BGPAdvertisement) {
	return func(a *loadbalancer.BGPAdvertisement) {
		a.Attributes.LocalPref, a.Attributes.HasLocalPref = value, true
	}
}

func community(b uint32) loadbalancer.Community { return loadbalancer.Community{A: 64512, B: b} }

func communities(b ...uint32) func(a *loadbalancer.BGPAdvertisement) {
	return func(a *loadbalancer.BGPAdvertisement) {
		for _, b := range b {
			a.Attributes.Communities = append(a.Attributes.Communities, community(b))
		}
	}
}

// another adds a Service told by BGP with an address below the first's.
func another(s *plan.Snapshot, ads ...string) {
	second(s)
	change(s, "u2", func(r *loadbalancer.Record) { r.BGPAdvertisements = ads })
}

func change(s *plan.Snapshot, uid loadbalancer.ServiceUID, f func(r *loadbalancer.Record)) {
	r := s.Records[uid]
	f(&r)
	s.Records[uid] = r
}

// pods gives a Service ready pods on nodes, one for each name, with two ports.
func pods(s *plan.Snapshot, uid loadbalancer.ServiceUID, nodes ...loadbalancer.NodeName) {
	e := loadbalancer.Endpoints{Any: len(nodes) > 0, Nodes: nodeSet(nodes...)}
	for i, n := range nodes {
		for _, port := range []uint16{80, 443} {
			e.Backends = append(e.Backends, loadbalancer.Backend{
				Addr: netip.AddrFrom4([4]byte{10, 1, 0, byte(i + 1)}), Protocol: loadbalancer.TCP, Port: port, Node: n, Weight: 1, Ready: true, Serving: true,
			})
		}
	}
	s.Endpoints[s.Records[uid].Service] = e
}

// localPods gives a Service the Local policy too.
func localPods(s *plan.Snapshot, uid loadbalancer.ServiceUID, nodes ...loadbalancer.NodeName) {
	change(s, uid, func(r *loadbalancer.Record) { r.Policy = loadbalancer.Local })
	pods(s, uid, nodes...)
}

func says(s *plan.Snapshot, uid loadbalancer.ServiceUID, o loadbalancer.BGPOverrides) {
	change(s, uid, func(r *loadbalancer.Record) { r.BGP = o })
}

func allow(a *loadbalancer.BGPAdvertisement) {
	a.ServiceLocalPref, a.ServiceMED, a.ServicePrepend, a.ServiceCommunities = true, true, true, true
}

func drain(s *plan.Snapshot, why reason.Reason) { s.Drain.Reason = why.String() }

// bgpScenarios change the routed cluster, of which s.Self plans. The golden file of each
// holds what every node tells.
func bgpScenarios() map[string]func(s *plan.Snapshot) {
	out := map[string]func(s *plan.Snapshot){
		"only-bgp": func(*plan.Snapshot) {},
		"layer-2-too": func(s *plan.Snapshot) {
			record(*s, func(r *loadbalancer.Record) { r.Advertisements = []string{"ad"} })
		},
		"sharer-on-layer-2-only": func(s *plan.Snapshot) {
			second(s, "ad")
			merge(s)
		},
		"no-sessions": func(s *plan.Snapshot) { s.BGP.Sessions = nil },
		"not-selected": func(s *plan.Snapshot) {
			advertise(s, "bgp", func(a *loadbalancer.BGPAdvertisement) { a.Here = s.Self == "b" })
		},
		"other-peers": func(s *plan.Snapshot) {
			advertise(s, "bgp", func(a *loadbalancer.BGPAdvertisement) { a.Peers = []string{"far"} })
		},
		"one-peer": func(s *plan.Snapshot) {
			advertise(s, "bgp", func(a *loadbalancer.BGPAdvertisement) { a.Peers = []string{"tor", "far"} })
		},
		"unknown-advertisement": func(s *plan.Snapshot) {
			record(*s, func(r *loadbalancer.Record) { r.BGPAdvertisements = []string{"gone"} })
		},
		"releasing":           func(s *plan.Snapshot) { s.Claims[0].Releasing = true },
		"foreign-service-uid": func(s *plan.Snapshot) { s.Claims[0].Services = []loadbalancer.ServiceUID{"other"} },
		"node-address": func(s *plan.Snapshot) {
			node(*s, "c", func(n *loadbalancer.Node) { n.Addrs = append(n.Addrs, addr("10.0.0.200")) })
		},
		"pod-range": func(s *plan.Snapshot) {
			node(*s, "c", func(n *loadbalancer.Node) { n.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.0.0.192/26")} })
		},
		"families": func(s *plan.Snapshot) {
			six(s)
			s.BGP.Sessions[0].IPv4, s.BGP.Sessions[1].IPv6 = false, false
		},
		"dual-stack-aggregates": func(s *plan.Snapshot) { six(s); advertise(s, "bgp", aggregate) },
		"pools-of-different-advertisements": func(s *plan.Snapshot) { // one for each family, with lengths for that alone
			six(s)
			advertise(s, "six", communities(6))
			advertise(s, "bgp", aggregate)
			record(*s, func(r *loadbalancer.Record) {
				r.BGPAdvertisements = []string{"bgp", "six"}
				r.BGPAddrs = map[string][]netip.Addr{"bgp": {addr("10.0.0.200")}, "six": {addr("fd00::200")}}
			})
		},
		"pool-without-advertisement": func(s *plan.Snapshot) {
			six(s)
			record(*s, func(r *loadbalancer.Record) { r.BGPAddrs = map[string][]netip.Addr{"bgp": {addr("10.0.0.200")}} })
		},
		"faults-of-the-configuration": func(s *plan.Snapshot) {
			s.BGP.Faults = []loadbalancer.BGPFault{{Peer: "far", Reason: reason.NoPassword.String(), Message: "no Secret"}}
		},
	}
	for _, more := range []map[string]func(s *plan.Snapshot){endpointScenarios(), aggregateScenarios(), sharingScenarios(), attributeScenarios(), drainScenarios()} {
		maps.Copy(out, more)
	}
	return out
}

func endpointScenarios() map[string]func(s *plan.Snapshot) {
	return map[string]func(s *plan.Snapshot){
		"cluster-no-endpoints": func(s *plan.Snapshot) { pods(s, "u1") },
		"local":                func(s *plan.Snapshot) { localPods(s, "u1", "a", "a", "b", "a") },
		"local-no-endpoints":   func(s *plan.Snapshot) { localPods(s, "u1") },
		"local-of-no-node":     func(s *plan.Snapshot) { localPods(s, "u1", "") },
		"local-some-not-ready": func(s *plan.Snapshot) {
			localPods(s, "u1", "a", "a", "b")
			b := s.Endpoints[s.Records["u1"].Service].Backends
			b[0].Ready, b[1].Ready = false, false
		},
		"local-terminating": func(s *plan.Snapshot) {
			localPods(s, "u1", "a", "a")
			b := s.Endpoints[s.Records["u1"].Service].Backends
			for i := range b {
				b[i].Ready, b[i].Terminating = false, true
			}
		},
		"local-dual-stack": func(s *plan.Snapshot) {
			six(s)
			localPods(s, "u1", "a", "a")
			e := s.Endpoints[s.Records["u1"].Service]
			e.Backends = append(e.Backends, loadbalancer.Backend{Addr: addr("fd01::1"), Node: "a", Ready: true, Serving: true})
			s.Endpoints[s.Records["u1"].Service] = e
		},
	}
}

func aggregateScenarios() map[string]func(s *plan.Snapshot) {
	lengths := func(s *plan.Snapshot) { // as in MetalLB's manual
		advertise(s, "bgp", communities(1))
		advertise(s, "wide", aggregate)
		advertise(s, "wide", localPref(200))
		record(*s, func(r *loadbalancer.Record) { r.BGPAdvertisements = []string{"wide", "bgp"} })
	}
	return map[string]func(s *plan.Snapshot){
		"aggregate": func(s *plan.Snapshot) {
			advertise(s, "bgp", aggregate)
			another(s, "bgp")
		},
		"aggregate-and-local": func(s *plan.Snapshot) { // .200 is told by b alone
			advertise(s, "bgp", aggregate)
			another(s, "bgp")
			localPods(s, "u1", "b")
		},
		"aggregate-and-local-without-endpoints": func(s *plan.Snapshot) {
			advertise(s, "bgp", aggregate)
			another(s, "bgp")
			localPods(s, "u1")
		},
		"two-lengths": lengths,
		"two-lengths-local": func(s *plan.Snapshot) { // the longer one speaks
			lengths(s)
			localPods(s, "u1", "a")
		},
		"no-length": func(s *plan.Snapshot) { advertise(s, "bgp", func(a *loadbalancer.BGPAdvertisement) { a.Bits4 = 0 }) },
	}
}

func sharingScenarios() map[string]func(s *plan.Snapshot) {
	shared := func(s *plan.Snapshot) { // one address, the second Service by "other"
		advertise(s, "other", communities(2))
		another(s, "other")
		merge(s)
		s.Claims = s.Claims[:1]
	}
	return map[string]func(s *plan.Snapshot){
		"sharers": shared,
		"sharers-on-different-nodes": func(s *plan.Snapshot) {
			shared(s)
			advertise(s, "bgp", func(a *loadbalancer.BGPAdvertisement) { a.Here = s.Self != "c" })
			advertise(s, "other", func(a *loadbalancer.BGPAdvertisement) { a.Here = s.Self != "a" })
		},
		"sharers-of-different-peers": func(s *plan.Snapshot) { // the reflector is not told of what only tor is to know
			shared(s)
			advertise(s, "other", func(a *loadbalancer.BGPAdvertisement) { a.Peers = []string{"tor"} })
		},
		"sharers-local": func(s *plan.Snapshot) {
			shared(s)
			localPods(s, "u1", "a", "a", "b", "b", "b")
			localPods(s, "u2", "a", "b", "b", "c")
		},
		"sharers-cluster-and-local": func(s *plan.Snapshot) {
			shared(s)
			advertise(s, "bgp", aggregate)
			localPods(s, "u2", "c")
		},
		"sharers-cluster-and-local-without-endpoints": func(s *plan.Snapshot) {
			shared(s)
			localPods(s, "u2")
		},
		"sharer-without-advertisement": func(s *plan.Snapshot) { // limits nodes all the same
			shared(s)
			change(s, "u2", func(r *loadbalancer.Record) { r.BGPAdvertisements = nil })
			localPods(s, "u2", "c")
		},
	}
}

func attributeScenarios() map[string]func(s *plan.Snapshot) {
	own := loadbalancer.BGPOverrides{
		LocalPref: 300, HasLocalPref: true, MED: 7, HasMED: true, Prepend: 2, HasPrepend: true, Communities: []string{"no-export", "gold", "64512:1"},
	}
	gold := func(s *plan.Snapshot) {
		s.BGP.Aliases = map[string]loadbalancer.Community{"gold": {Kind: loadbalancer.LargeCommunity, A: 64512, B: 1, C: 2}}
		advertise(s, "bgp", communities(1, 5))
		advertise(s, "bgp", localPref(100))
		says(s, "u1", own)
	}
	return map[string]func(s *plan.Snapshot){
		"attributes": func(s *plan.Snapshot) {
			advertise(s, "bgp", func(a *loadbalancer.BGPAdvertisement) {
				a.Attributes = loadbalancer.BGPAttributes{LocalPref: 50, HasLocalPref: true, MED: 0, HasMED: true, Prepend: 4}
			})
			advertise(s, "bgp", communities(1, 5))
		},
		"service-says":             func(s *plan.Snapshot) { gold(s); advertise(s, "bgp", allow) },
		"service-says-not-allowed": gold,
		"service-says-of-an-aggregate": func(s *plan.Snapshot) {
			gold(s)
			advertise(s, "bgp", allow)
			advertise(s, "bgp", aggregate)
		},
		"service-says-nonsense": func(s *plan.Snapshot) {
			gold(s)
			advertise(s, "bgp", allow)
			s.BGP.Aliases = nil
		},
		"services-contradict": func(s *plan.Snapshot) { // d/svc comes before d/two
			gold(s)
			advertise(s, "bgp", allow)
			another(s, "bgp")
			merge(s)
			says(s, "u2", loadbalancer.BGPOverrides{LocalPref: 1, HasLocalPref: true, MED: 7, HasMED: true})
		},
		"services-of-two-advertisements-contradict": func(s *plan.Snapshot) { // d/svc comes first though its advertisement does not
			gold(s)
			advertise(s, "bgp", allow)
			advertise(s, "all", allow)
			another(s, "all")
			merge(s)
			says(s, "u2", loadbalancer.BGPOverrides{MED: 8, HasMED: true})
		},
		"advertisements-contradict": func(s *plan.Snapshot) {
			advertise(s, "bgp", localPref(100))
			advertise(s, "bgp", communities(2))
			advertise(s, "all", localPref(200))
			advertise(s, "all", communities(1))
			advertise(s, "bgp", func(a *loadbalancer.BGPAdvertisement) { a.Attributes.Prepend = 1 })
			another(s, "all", "bgp")
			record(*s, func(r *loadbalancer.Record) { r.BGPAdvertisements = []string{"bgp", "all"} })
		},
		"advertisements-contradict-for-one-peer": func(s *plan.Snapshot) {
			advertise(s, "bgp", localPref(100))
			advertise(s, "reflected", localPref(200))
			advertise(s, "reflected", func(a *loadbalancer.BGPAdvertisement) { a.Peers = []string{"reflector"} })
			record(*s, func(r *loadbalancer.Record) { r.BGPAdvertisements = []string{"bgp", "reflected"} })
		},
		"advertisements-add": func(s *plan.Snapshot) { // one says nothing of what the other says
			advertise(s, "all", communities(1))
			advertise(s, "bgp", localPref(200))
			record(*s, func(r *loadbalancer.Record) { r.BGPAdvertisements = []string{"bgp", "all"} })
		},
	}
}

func drainScenarios() map[string]func(s *plan.Snapshot) {
	barred := func(s *plan.Snapshot) {
		for n := range s.Nodes {
			node(*s, n, func(n *loadbalancer.Node) { n.Excluded, n.ShuttingDown = n.Name == "a", n.Name == "b" })
		}
		member(*s, "c", func(m *plan.Member) { m.Leaving = true })
	}
	return map[string]func(s *plan.Snapshot){
		"barred":       barred,
		"draining":     func(s *plan.Snapshot) { barred(s); drain(s, reason.NodeExcluded) },
		"drained":      func(s *plan.Snapshot) { drain(s, reason.NodeExcluded); s.Drain.Over = true },
		"drain-cordon": func(s *plan.Snapshot) { cordon(*s, "a", "b", "c"); drain(s, reason.NodeCordoned) },
		"drain-prepend": func(s *plan.Snapshot) {
			advertise(s, "bgp", func(a *loadbalancer.BGPAdvertisement) { a.Attributes.Prepend = 15 })
			advertise(s, "bgp", localPref(100))
			advertise(s, "bgp", communities(1))
			drain(s, reason.Leaving)
		},
		"drain-without-network": func(s *plan.Snapshot) {
			node(*s, s.Self, func(n *loadbalancer.Node) { n.NetworkUnavailable = true })
			drain(s, reason.Leaving)
		},
	}
}

func TestBGPGolden(t *testing.T) {
	t.Parallel()
	for name, change := range bgpScenarios() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := ""
			for _, self := range []loadbalancer.NodeName{"a", "b", "c"} {
				s := routed()
				s.Self = self
				change(&s)
				got += "# " + string(self) + "\n" + plan.For(s).String()
			}
			path := filepath.Join("testdata", "bgp", name+".golden")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}
