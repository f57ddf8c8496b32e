// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"flag"
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

var update = flag.Bool("update", false, "rewrite the golden files")

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func nodeSet(names ...loadbalancer.NodeName) map[loadbalancer.NodeName]struct{} {
	out := map[loadbalancer.NodeName]struct{}{}
	for _, n := range names {
		out[n] = struct{}{}
	}
	return out
}

// base is a cluster of nodes a, b and c with eth0 in 10.0.0.0/24, and one Service with
// one address, proposed for b, then a.
func base() plan.Snapshot {
	s := plan.Snapshot{
		Self: "a",
		Claims: []loadbalancer.Claim{{
			Name: "10.0.0.200", Addr: addr("10.0.0.200"), Group: "10.0.0.200", Services: []loadbalancer.ServiceUID{"u1"},
			Successors: []loadbalancer.NodeName{"b", "a"},
		}},
		Records: map[loadbalancer.ServiceUID]loadbalancer.Record{"u1": {
			UID: "u1", Service: loadbalancer.ServiceKey{Namespace: "d", Name: "svc"},
			Addrs: []netip.Addr{addr("10.0.0.200")}, Advertisements: []string{"ad"},
		}},
		Advertisements: map[string]loadbalancer.Advertisement{"ad": {Name: "ad", AllNodes: true}},
		Nodes:          map[loadbalancer.NodeName]loadbalancer.Node{},
		Endpoints:      map[loadbalancer.ServiceKey]loadbalancer.Endpoints{},
		Members:        map[loadbalancer.NodeName]plan.Member{},
		Highest:        map[loadbalancer.Group]uint64{},
	}
	for i, n := range []loadbalancer.NodeName{"a", "b", "c"} {
		own := netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})
		s.Nodes[n] = loadbalancer.Node{Name: n, Ready: true, Addrs: []netip.Addr{own}}
		s.Members[n] = plan.Member{Known: true, Interfaces: []loadbalancer.Interface{
			{Name: "eth0", Prefixes: []netip.Prefix{netip.PrefixFrom(own, 24)}},
			{Name: "eth1", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.1.1/24")}},
		}}
	}
	return s
}

func member(s plan.Snapshot, n loadbalancer.NodeName, change func(m *plan.Member)) {
	m := s.Members[n]
	m.Claims = maps.Clone(m.Claims)
	if m.Claims == nil {
		m.Claims = map[loadbalancer.Group]uint64{}
	}
	change(&m)
	s.Members[n] = m
}

func claims(s plan.Snapshot, n loadbalancer.NodeName, epoch uint64) {
	member(s, n, func(m *plan.Member) { m.Claims["10.0.0.200"] = epoch })
}

func record(s plan.Snapshot, change func(r *loadbalancer.Record)) {
	r := s.Records["u1"]
	change(&r)
	s.Records["u1"] = r
}

func node(s plan.Snapshot, n loadbalancer.NodeName, change func(n *loadbalancer.Node)) {
	v := s.Nodes[n]
	change(&v)
	s.Nodes[n] = v
}

func cordon(s plan.Snapshot, names ...loadbalancer.NodeName) {
	for _, n := range names {
		node(s, n, func(n *loadbalancer.Node) { n.Cordoned = true })
	}
}

func local(s plan.Snapshot, serving bool, names ...loadbalancer.NodeName) {
	record(s, func(r *loadbalancer.Record) { r.Policy = loadbalancer.Local })
	s.Endpoints[loadbalancer.ServiceKey{Namespace: "d", Name: "svc"}] = loadbalancer.Endpoints{Any: serving, Nodes: nodeSet(names...)}
}

// second adds a Service with an address below the first's, in a group of its own.
func second(s *plan.Snapshot, ads ...string) {
	s.Claims = append(s.Claims, loadbalancer.Claim{
		Name: "10.0.0.100", Addr: addr("10.0.0.100"), Group: "10.0.0.100", Services: []loadbalancer.ServiceUID{"u2"},
		Successors: []loadbalancer.NodeName{"a", "c"},
	})
	s.Records["u2"] = loadbalancer.Record{
		UID: "u2", Service: loadbalancer.ServiceKey{Namespace: "d", Name: "two"}, Addrs: []netip.Addr{addr("10.0.0.100")}, Advertisements: ads,
	}
}

// merge lets both Services share both addresses, in one group.
func merge(s *plan.Snapshot) {
	both := []netip.Addr{addr("10.0.0.200"), addr("10.0.0.100")}
	for i := range s.Claims {
		s.Claims[i].Services, s.Claims[i].Group = []loadbalancer.ServiceUID{"u1", "u2"}, "10.0.0.100"
	}
	for uid, r := range s.Records {
		r.Addrs = both
		s.Records[uid] = r
	}
}

// ipv6 gives every node a prefix on eth0.
func ipv6(s *plan.Snapshot) {
	for n := range s.Members {
		member(*s, n, func(m *plan.Member) {
			m.Interfaces[0].Prefixes = append(m.Interfaces[0].Prefixes, netip.MustParsePrefix("fd00::"+string(n)+"/64"))
		})
	}
}

// six gives the Service an IPv6 address too.
func six(s *plan.Snapshot) {
	s.Claims = append(s.Claims, loadbalancer.Claim{
		Name: "fd00-200", Addr: addr("fd00::200"), Group: "10.0.0.200", Services: []loadbalancer.ServiceUID{"u1"},
		Successors: []loadbalancer.NodeName{"b", "a"},
	})
	record(*s, func(r *loadbalancer.Record) { r.Addrs = append(r.Addrs, addr("fd00::200")) })
}

// told lets the API know what members claim.
func told(s *plan.Snapshot) {
	for i, c := range s.Claims {
		for n, m := range s.Members {
			if o := (loadbalancer.Ownership{Node: n, Epoch: m.Claims[c.Name]}); o.Epoch > 0 && o.Beats(s.Claims[i].Persisted) {
				s.Claims[i].Persisted = o
			}
		}
	}
}

// scenarios change the base. The golden file of each holds every node's plan.
func scenarios() map[string]func(s *plan.Snapshot) {
	return map[string]func(s *plan.Snapshot){
		"new-claim":      func(*plan.Snapshot) {},
		"owner-keeps":    func(s *plan.Snapshot) { claims(*s, "a", 3) },
		"owner-dead":     func(s *plan.Snapshot) { s.Claims[0].Persisted.Node, s.Claims[0].Persisted.Epoch = "gone", 4 },
		"first-is-gone":  func(s *plan.Snapshot) { delete(s.Members, "b") },
		"list-exhausted": func(s *plan.Snapshot) { delete(s.Members, "b"); delete(s.Members, "a"); s.Self = "c" },
		"leaving": func(s *plan.Snapshot) {
			claims(*s, "a", 3)
			member(*s, "a", func(m *plan.Member) { m.Leaving = true })
		},
		"unknown-member":      func(s *plan.Snapshot) { member(*s, "b", func(m *plan.Member) { m.Known = false }) },
		"excluded":            func(s *plan.Snapshot) { node(*s, "b", func(n *loadbalancer.Node) { n.Excluded = true }) },
		"network-unavailable": func(s *plan.Snapshot) { node(*s, "b", func(n *loadbalancer.Node) { n.NetworkUnavailable = true }) },
		"not-selected": func(s *plan.Snapshot) {
			s.Advertisements["ad"] = loadbalancer.Advertisement{Name: "ad", Nodes: nodeSet("c")}
		},
		"named-interface": func(s *plan.Snapshot) {
			s.Advertisements["ad"] = loadbalancer.Advertisement{Name: "ad", AllNodes: true, Interfaces: []string{"eth1"}}
		},
		"two-advertisements": func(s *plan.Snapshot) {
			s.Advertisements["other"] = loadbalancer.Advertisement{Name: "other", Nodes: nodeSet("b"), Interfaces: []string{"eth1"}}
			record(*s, func(r *loadbalancer.Record) { r.Advertisements = append(r.Advertisements, "other") })
		},
		"no-advertisement": func(s *plan.Snapshot) {
			claims(*s, "a", 3)
			record(*s, func(r *loadbalancer.Record) { r.Advertisements = nil })
		},
		"no-interface": func(s *plan.Snapshot) {
			member(*s, "b", func(m *plan.Member) { m.Interfaces = m.Interfaces[1:] })
		},
		"single-address-prefix": func(s *plan.Snapshot) {
			member(*s, "b", func(m *plan.Member) {
				m.Interfaces = []loadbalancer.Interface{{Name: "x", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32")}}}
			})
		},
		"node-address": func(s *plan.Snapshot) {
			node(*s, "c", func(n *loadbalancer.Node) { n.Addrs = append(n.Addrs, addr("10.0.0.200")) })
		},
		"releasing":                        func(s *plan.Snapshot) { claims(*s, "a", 3); s.Claims[0].Releasing = true },
		"foreign-service-uid":              func(s *plan.Snapshot) { s.Claims[0].Services = []loadbalancer.ServiceUID{"other"} },
		"ipv6-only":                        func(s *plan.Snapshot) { s.Claims = s.Claims[:0]; ipv6(s); six(s) },
		"ipv6-without-prefix":              func(s *plan.Snapshot) { s.Claims = s.Claims[:0]; six(s) },
		"dual-stack":                       func(s *plan.Snapshot) { ipv6(s); six(s) },
		"dual-stack-on-nodes-without-ipv6": six,
		"dual-stack-where-one-node-has-no-ipv6": func(s *plan.Snapshot) {
			ipv6(s)
			six(s)
			member(*s, "b", func(m *plan.Member) { m.Interfaces[0].NoIPv6 = true })
		},
		"named-interface-without-ipv6": func(s *plan.Snapshot) {
			s.Claims = s.Claims[:0]
			six(s)
			s.Advertisements["ad"] = loadbalancer.Advertisement{Name: "ad", AllNodes: true, Interfaces: []string{"eth0"}}
			for _, n := range []loadbalancer.NodeName{"a", "b"} {
				member(*s, n, func(m *plan.Member) { m.Interfaces[0].NoIPv6 = true })
			}
		},
		"local":                func(s *plan.Snapshot) { local(*s, true, "c") },
		"local-endpoint-moved": func(s *plan.Snapshot) { claims(*s, "a", 3); told(s); local(*s, true, "c") },
		"local-endpoint-moved-for-one-node-only": func(s *plan.Snapshot) {
			claims(*s, "a", 3)
			s.Claims[0].Persisted = loadbalancer.Ownership{Node: "c", Epoch: 1}
			local(*s, true, "c")
		},
		"local-no-endpoints":        func(s *plan.Snapshot) { local(*s, false) },
		"local-no-endpoints-keeps":  func(s *plan.Snapshot) { claims(*s, "c", 3); local(*s, false) },
		"local-endpoint-of-no-node": func(s *plan.Snapshot) { local(*s, true) },
		"minority":                  func(s *plan.Snapshot) { s.Guard = reason.Minority },
		"minority-own": func(s *plan.Snapshot) {
			s.Guard = reason.Minority
			s.Claims[0].Persisted = loadbalancer.Ownership{Node: "c", Epoch: 4}
		},
		"hold-new-claim":  func(s *plan.Snapshot) { s.Hold = true },
		"hold-dead-owner": func(s *plan.Snapshot) { s.Hold = true; s.Highest["10.0.0.200"] = 4 },
		"owner-awaited": func(s *plan.Snapshot) {
			s.Claims[0].Persisted = loadbalancer.Ownership{Node: "d", Epoch: 4}
			s.Awaited = map[loadbalancer.NodeName]struct{}{"d": {}}
		},
		"another-owner-awaited": func(s *plan.Snapshot) {
			s.Awaited = map[loadbalancer.NodeName]struct{}{"d": {}}
		},
		"external-ip": func(s *plan.Snapshot) { // and a node's own beside it
			second(s, "ad")
			s.Claims[1].Addr, s.Claims[1].Name, s.Claims[1].Group = addr("10.0.0.3"), "10.0.0.3", "10.0.0.200"
			record(*s, func(r *loadbalancer.Record) { r.Addrs = append(r.Addrs, addr("10.0.0.3")) })
			s.Claims[1].Services = []loadbalancer.ServiceUID{"u1"}
		},
		"gateway": func(s *plan.Snapshot) {
			member(*s, "c", func(m *plan.Member) { m.Gateways = []netip.Addr{addr("10.0.0.200"), addr("fe80::1")} })
		},
		"sharers":            func(s *plan.Snapshot) { second(s, "ad"); merge(s) },
		"sharer-unannounced": func(s *plan.Snapshot) { second(s); merge(s) },
		"sharer-releasing": func(s *plan.Snapshot) { // the address that named the group goes
			second(s, "ad")
			merge(s)
			member(*s, "b", func(m *plan.Member) { m.Claims["10.0.0.100"], m.Claims["10.0.0.200"] = 3, 3 })
			s.Claims[1].Releasing = true
		},
		"sharers-on-different-nodes": func(s *plan.Snapshot) {
			s.Advertisements["ad"] = loadbalancer.Advertisement{Name: "ad", Nodes: nodeSet("a", "b")}
			s.Advertisements["other"] = loadbalancer.Advertisement{Name: "other", Nodes: nodeSet("c")}
			second(s, "other")
			merge(s)
			claims(*s, "a", 3)
		},
		"sharers-on-different-interfaces": func(s *plan.Snapshot) {
			s.Advertisements["other"] = loadbalancer.Advertisement{Name: "other", AllNodes: true, Interfaces: []string{"eth1"}}
			second(s, "other")
			merge(s)
		},
		"sharers-on-one-common-interface": func(s *plan.Snapshot) {
			s.Advertisements["ad"] = loadbalancer.Advertisement{Name: "ad", AllNodes: true, Interfaces: []string{"eth0", "eth1"}}
			s.Advertisements["other"] = loadbalancer.Advertisement{Name: "other", Nodes: nodeSet("c"), Interfaces: []string{"eth1"}}
			second(s, "other")
			merge(s)
		},
		"addresses-on-different-nodes": func(s *plan.Snapshot) { // of one Service, by a node that lacks one subnet
			second(s)
			merge(s)
			s.Claims[1].Addr, s.Claims[1].Name = addr("192.168.1.7"), "192.168.1.7"
			record(*s, func(r *loadbalancer.Record) { r.Addrs[1] = addr("192.168.1.7") })
			for n, i := range map[loadbalancer.NodeName]int{"a": 0, "b": 1, "c": 1} {
				member(*s, n, func(m *plan.Member) { m.Interfaces = m.Interfaces[i : i+1] })
			}
		},
		"address-out-of-every-subnet": func(s *plan.Snapshot) { // does not stop the other
			second(s)
			merge(s)
			s.Claims[1].Addr, s.Claims[1].Name = addr("203.0.113.7"), "203.0.113.7"
			record(*s, func(r *loadbalancer.Record) { r.Addrs[1] = addr("203.0.113.7") })
		},
		"sharers-of-one-address-of-two-disagree": func(s *plan.Snapshot) { // the other address goes on
			s.Advertisements["ad"] = loadbalancer.Advertisement{Name: "ad", Nodes: nodeSet("a", "b")}
			s.Advertisements["other"] = loadbalancer.Advertisement{Name: "other", Nodes: nodeSet("c")}
			second(s, "other")
			merge(s)
			two := s.Records["u2"]
			two.Addrs = two.Addrs[1:]
			s.Records["u2"] = two
		},
		"sharers-local": func(s *plan.Snapshot) {
			second(s, "ad")
			merge(s)
			local(*s, true, "a", "c")
			two := s.Records["u2"]
			two.Policy = loadbalancer.Local
			s.Records["u2"] = two
			s.Endpoints[two.Service] = loadbalancer.Endpoints{Any: true, Nodes: nodeSet("b", "c")}
		},
		"group-renamed": func(s *plan.Snapshot) { claims(*s, "c", 3); second(s, "ad"); merge(s) },
		"group-renamed-since-the-owner-wrote": func(s *plan.Snapshot) {
			second(s, "ad")
			merge(s)
			s.Claims[0].Persisted = loadbalancer.Ownership{Node: "c", Epoch: 4}
			s.Highest["10.0.0.200"] = 6
		},
		"group-split": func(s *plan.Snapshot) {
			second(s, "ad")
			member(*s, "b", func(m *plan.Member) { m.Claims["10.0.0.100"], m.Claims["10.0.0.200"] = 3, 3 })
		},
		"groups-merged": func(s *plan.Snapshot) { // a goes on with .100 until b claims it
			second(s, "ad")
			member(*s, "a", func(m *plan.Member) { m.Claims["10.0.0.100"] = 3 })
			claims(*s, "b", 5)
			merge(s)
		},
		"groups-merged-by-an-agent-of-an-earlier-version": func(s *plan.Snapshot) { // which names the group only
			second(s, "ad")
			member(*s, "a", func(m *plan.Member) { m.Claims["10.0.0.100"], m.Claims["10.0.0.200"] = 3, 3 })
			member(*s, "c", func(m *plan.Member) { m.Claims["10.0.0.100"] = 5 })
			merge(s)
		},
		"cordoned-owner":              func(s *plan.Snapshot) { claims(*s, "a", 3); told(s); cordon(*s, "a") },
		"cordoned-owner-was-relieved": func(s *plan.Snapshot) { claims(*s, "a", 3); claims(*s, "b", 4); cordon(*s, "a") },
		"cordoned-all":                func(s *plan.Snapshot) { claims(*s, "c", 3); cordon(*s, "a", "b", "c") },
		"cordoned-all-that-may": func(s *plan.Snapshot) { // c has no interface for it
			claims(*s, "a", 3)
			cordon(*s, "a", "b")
			member(*s, "c", func(m *plan.Member) { m.Interfaces = m.Interfaces[1:] })
		},
		"absent-owner": func(s *plan.Snapshot) { // b is to inherit, not a, which is away too
			claims(*s, "c", 3)
			s.Claims[0].Successors = []loadbalancer.NodeName{"a", "b"}
			for _, n := range []loadbalancer.NodeName{"a", "c"} {
				member(*s, n, func(m *plan.Member) { m.Absent = true })
			}
		},
		"cordoned-and-new":        func(s *plan.Snapshot) { cordon(*s, "b") },
		"uncordoned-gets-nothing": func(s *plan.Snapshot) { claims(*s, "c", 4) }, // which has it from b
		"cordoned-local-drained":  func(s *plan.Snapshot) { claims(*s, "a", 3); told(s); local(*s, true, "b"); cordon(*s, "a") },
		"cordoned-local-pods-stay": func(s *plan.Snapshot) { // no other node has one
			claims(*s, "a", 3)
			local(*s, true, "a")
			cordon(*s, "a")
		},
		"cordoned-local-no-endpoints": func(s *plan.Snapshot) { claims(*s, "a", 3); local(*s, false); cordon(*s, "a") },
		"cordoned-sharers": func(s *plan.Snapshot) {
			second(s, "ad")
			merge(s)
			member(*s, "b", func(m *plan.Member) { m.Claims["10.0.0.100"], m.Claims["10.0.0.200"] = 3, 3 })
			cordon(*s, "b")
			told(s)
		},
		"cordoned-dual-stack": func(s *plan.Snapshot) {
			ipv6(s)
			six(s)
			member(*s, "b", func(m *plan.Member) { m.Claims["10.0.0.200"], m.Claims["fd00-200"] = 3, 3 })
			cordon(*s, "b")
			told(s)
		},
		"shutting-down": func(s *plan.Snapshot) {
			claims(*s, "b", 3)
			node(*s, "b", func(n *loadbalancer.Node) { n.Ready, n.ShuttingDown = false, true })
			told(s)
		},
		"shutting-down-all": func(s *plan.Snapshot) {
			claims(*s, "b", 3)
			for n := range s.Nodes {
				node(*s, n, func(n *loadbalancer.Node) { n.ShuttingDown = true })
			}
		},
		"not-ready-keeps": func(s *plan.Snapshot) {
			claims(*s, "c", 3)
			node(*s, "c", func(n *loadbalancer.Node) { n.Ready = false })
		},
		"conflict": func(s *plan.Snapshot) { claims(*s, "a", 3); claims(*s, "b", 3); claims(*s, "c", 2) },
	}
}

func TestGolden(t *testing.T) {
	t.Parallel()
	for name, change := range scenarios() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := ""
			for _, self := range []loadbalancer.NodeName{"a", "b", "c"} {
				s := base()
				change(&s)
				if _, live := s.Members[self]; !live {
					continue
				}
				s.Self = self
				got += "# " + string(self) + "\n" + plan.For(s).String()
			}
			path := filepath.Join("testdata", name+".golden")
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

func TestAnnouncementsAreThoseOfTheOwner(t *testing.T) {
	t.Parallel()
	s := base()
	if got := plan.For(s).Announcements(); len(got) != 0 {
		t.Errorf("a announces %v", got)
	}
	s.Self = "b"
	want := map[plan.Announcement]uint64{{Interface: "eth0", Addr: addr("10.0.0.200")}: 1}
	if got := plan.For(s).Announcements(); !maps.Equal(got, want) {
		t.Errorf("b announces %v, want %v", got, want)
	}
}

func TestPlanDoesNotChangeItsInput(t *testing.T) {
	t.Parallel()
	for name, change := range scenarios() {
		s, want := base(), base()
		change(&s)
		change(&want)
		plan.For(s)
		if diff := cmp.Diff(want, s, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
