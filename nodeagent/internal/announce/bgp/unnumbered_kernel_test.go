// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/bfd"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/unnumbered"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/test/netns"
)

// newUnnumberedRouter is a [realRouter] without an address but the link-local ones, whose
// link r0 is ours lb0.
func newUnnumberedRouter(t *testing.T) *realRouter {
	t.Helper()
	netns.AddVeth(t, "lb0", "", "r0", "")
	r := &realRouter{Other: netns.NewOther(t), t: t, dir: t.TempDir()}
	r.Take("r0")
	r.Run("ip", "link", "set", "lo", "up")
	r.Run("ip", "link", "set", "r0", "up")
	return r
}

// finder of routers on real links, until the end of the test.
func finder(t *testing.T) *unnumbered.Finder {
	t.Helper()
	k, err := kernel.New()
	if err != nil {
		t.Fatal(err)
	}
	f := unnumbered.New(unnumbered.Options{Links: k, Open: func(l kernel.Link) (unnumbered.Conn, error) { return k.OpenRouters(l) }})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		k.Close()
	})
	return f
}

// unnumberedSpec is our side.
func unnumberedSpec(change func(*loadbalancer.BGPSession)) loadbalancer.BGPSession {
	return realSpec(func(s *loadbalancer.BGPSession) {
		s.Addr, s.Interface, s.PeerASN, s.Dynamic = netip.Addr{}, "lb0", 0, loadbalancer.ExternalASN
		if change != nil {
			change(s)
		}
	})
}

// frrUnnumbered is a configuration of FRR whose neighbour is the link r0.
func frrUnnumbered(more string) string {
	c := "router bgp 64512\n bgp router-id 10.99.0.254\n no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n" +
		" neighbor r0 interface remote-as external\n neighbor r0 timers connect 1\n" + more
	for _, f := range []string{"ipv4", "ipv6"} {
		c += fmt.Sprintf(" address-family %s unicast\n  neighbor r0 activate\n exit-address-family\n", f)
	}
	return c
}

// FRR learns us by our advertisements and we it by its, both without an address.
func TestFRRUnnumbered(t *testing.T) {
	for _, tt := range []struct {
		name, more string
		change     func(*loadbalancer.BGPSession)
	}{
		{"plain", "", nil},
		{"hop count and password", " neighbor r0 ttl-security hops 1\n neighbor r0 password s3cret\n", func(s *loadbalancer.BGPSession) { s.TTLSecurity, s.Password = 1, "s3cret" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newUnnumberedRouter(t)
			r.frr(frrUnnumbered(tt.more))
			s := begin(t, Options{Routers: finder(t)})
			s.Apply(planOf(full(), unnumberedSpec(tt.change)), nil)
			st := awaitState(t, s, "r", Established)
			if st.ASN != 64512 || !strings.HasPrefix(st.Address, "fe80::") || !strings.HasSuffix(st.Address, "%lb0") || !st.Local.IsLinkLocalUnicast() {
				t.Errorf("the session is %+v", st)
			}
			eventually(t, "all routes are told", func() bool { st := stateOf(s, "r"); return st.Prefixes == 2 && st.LeftOut == 0 })
			own := st.Local.WithZone("").String()
			for _, q := range []struct{ family, prefix string }{{"ipv4", "198.51.100.1/32"}, {"ipv6", "2001:db8:1::1/128"}} {
				var got frrPath
				eventually(t, "FRR has "+q.prefix, func() bool {
					got = frrPath{}
					r.vtysh("show bgp "+q.family+" unicast "+q.prefix+" json", &got)
					return len(got.Paths) == 1
				})
				for _, n := range got.Paths[0].Nexthops {
					if n.IP != own {
						t.Errorf("FRR has next hops %+v for %s, want %s", got.Paths[0].Nexthops, q.prefix, own)
					}
				}
			}
			eventually(t, "the router's kernel forwards", func() bool {
				return strings.Contains(r.Run("ip", "-6", "route"), "2001:db8:1::1 ") && strings.Contains(r.Run("ip", "route"), "198.51.100.1 ")
			})
			if out := r.Run("ip", "route", "show", "198.51.100.1"); !strings.Contains(out, "via inet6 "+own+" dev r0") {
				t.Errorf("IPv4 goes by %s", out)
			}
			if out := r.Run("ip", "-6", "route", "show", "2001:db8:1::1"); !strings.Contains(out, "via "+own+" dev r0") {
				t.Errorf("IPv6 goes by %s", out)
			}
			if out := r.Run("ip", "-6", "route", "show", "default"); strings.Contains(out, own) {
				t.Errorf("we are the router's default router: %s", out)
			}
		})
	}
}

// BIRD takes neighbours of a range.
func TestBIRDUnnumbered(t *testing.T) {
	r := newUnnumberedRouter(t)
	eventually(t, "the router has its link-local address", func() bool {
		return strings.Contains(r.Run("ip", "-6", "addr", "show", "dev", "r0", "-tentative"), "fe80::")
	})
	r.bird(`protocol radv { interface "r0" { min ra interval 3; max ra interval 5; default lifetime 15; }; }
protocol bgp lb { local as 64512; neighbor range fe80::/10 external; interface "r0"; direct; ttl security on;
  error wait time 1,2; error forget time 10;
  ipv4 { import all; export none; extended next hop on; }; ipv6 { import all; export none; }; }
`)
	s := begin(t, Options{Routers: finder(t)})
	s.Apply(planOf(full(), unnumberedSpec(func(s *loadbalancer.BGPSession) { s.TTLSecurity = 1 })), nil)
	own := awaitState(t, s, "r", Established).Local.WithZone("").String()
	var four, six string
	eventually(t, "the router's kernel forwards", func() bool {
		four, six = r.Run("ip", "route", "show", "198.51.100.1"), r.Run("ip", "-6", "route", "show", "2001:db8:1::1")
		return four != "" && six != ""
	})
	if !strings.Contains(four, "via inet6 "+own+" dev r0") || !strings.Contains(six, "via "+own+" dev r0") {
		t.Errorf("it forwards by\n%s%s", four, six)
	}
}

// A link that goes down ends the session at once and says why; a router that has another
// address afterwards is found again.
func TestUnnumberedFollowsTheRouter(t *testing.T) {
	r := newUnnumberedRouter(t)
	r.frr(frrUnnumbered(""))
	s := begin(t, Options{Routers: finder(t)})
	s.Apply(planOf(full(), unnumberedSpec(nil)), nil)
	before := awaitState(t, s, "r", Established)
	r.Run("ip", "link", "set", "r0", "down")
	eventually(t, "the session ends", func() bool { return stateOf(s, "r").Message == "link lb0 is down" })
	if st := stateOf(s, "r"); st.State != Idle || st.Address != "lb0" {
		t.Errorf("the session is %+v", st)
	}
	eventually(t, "the end is counted", func() bool { return stateOf(s, "r").Flaps == 1 })
	r.Run("ip", "link", "set", "r0", "address", "02:00:00:00:00:77")
	r.Run("ip", "link", "set", "r0", "up")
	var after SessionState
	eventually(t, "there is a session again", func() bool { after = stateOf(s, "r"); return after.State == Established })
	if after.Address == before.Address || after.Address != "fe80::ff:fe00:77%lb0" {
		t.Errorf("the router was at %s, and is at %s", before.Address, after.Address)
	}
	eventually(t, "FRR has the route again", func() bool {
		return strings.Contains(r.Run("ip", "route", "show", "198.51.100.1"), "via inet6 "+after.Local.WithZone("").String())
	})
}

// BFD runs over link-local addresses, and notices that the router is silent.
func TestFRRUnnumberedWithBFD(t *testing.T) {
	r := newUnnumberedRouter(t)
	r.frr(frrUnnumbered(" neighbor r0 bfd\n"))
	detector := bfd.New(bfd.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- detector.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	s := begin(t, Options{Routers: finder(t), Detector: detector})
	s.Apply(planOf(full(), unnumberedSpec(func(s *loadbalancer.BGPSession) {
		s.BFD = loadbalancer.BFDSession{Profile: "usual", Receive: 300 * time.Millisecond, Transmit: 300 * time.Millisecond, Multiplier: 3, MinTTL: 255}
	})), nil)
	eventually(t, "session and BFD are up", func() bool { st := stateOf(s, "r"); return st.State == Established && st.BFD == "Up" })
	own := stateOf(s, "r").Local.WithZone("").String()
	eventually(t, "FRR holds BFD for up", func() bool {
		var peers []struct{ Peer, Status string }
		r.vtysh("show bfd peers json", &peers)
		return len(peers) == 1 && peers[0].Peer == own && peers[0].Status == "up"
	})
	r.kill(filepath.Join(r.dir, "bfdd.pid"))
	eventually(t, "BFD ends the session", func() bool { return stateOf(s, "r").Reason == reason.BFDDown })
}
