// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
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

// ipLocal runs ip in our own namespace.
func ipLocal(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %v: %v\n%s", args, err, out)
	}
	return string(out)
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
			began := time.Now()
			st := awaitState(t, s, "r", Established)
			t.Logf("established after %s: %+v", time.Since(began), st)
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
