// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package bgp

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// frrLB is a configuration of FRR with neighbours of an AS.
func frrLB(remote int, more string, neighbours ...string) string {
	var b strings.Builder
	b.WriteString("router bgp 64512\n bgp router-id 10.99.0.254\n no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n bgp bestpath as-path multipath-relax\n")
	for _, n := range neighbours {
		fmt.Fprintf(&b, " neighbor %s remote-as %d\n neighbor %s timers connect 1\n", n, remote, n)
	}
	b.WriteString(more)
	for _, f := range []string{"ipv4", "ipv6"} {
		fmt.Fprintf(&b, " address-family %s unicast\n  maximum-paths 16\n", f)
		for _, n := range neighbours {
			fmt.Fprintf(&b, "  neighbor %s activate\n", n)
		}
		b.WriteString(" exit-address-family\n")
	}
	return b.String()
}

// frrPath is what is read of `show bgp … json`.
type frrPath struct {
	Paths []struct {
		ASPath        struct{ String string } `json:"aspath"`
		Metric        int                     `json:"metric"`
		LocPrf        int                     `json:"locPrf"`
		Community     struct{ String string } `json:"community"`
		Large         struct{ String string } `json:"largeCommunity"`
		Extended      struct{ String string } `json:"extendedCommunity"`
		Nexthops      []struct{ IP, Scope string }
		LinkBandwidth int `json:"linkBandwidth"`
	}
}

func TestFRRSeesWhatIsTold(t *testing.T) {
	r := newRealRouter(t, "vtysh")
	r.frr(frrLB(64513, "", "10.99.0.1"))
	s := begin(t, Options{})
	s.Apply(planOf(full(), realSpec(nil)), ours)
	awaitState(t, s, "r", Established)
	for _, q := range []struct{ family, prefix, hop string }{
		{"ipv4", "198.51.100.1/32", "10.99.0.1"}, {"ipv6", "2001:db8:1::1/128", "2001:db8:99::1"},
	} {
		var got frrPath
		eventually(t, "FRR has "+q.prefix, func() bool {
			got = frrPath{}
			r.vtysh("show bgp "+q.family+" unicast "+q.prefix+" json", &got)
			return len(got.Paths) == 1
		})
		p := got.Paths[0]
		if p.ASPath.String != "64513 64513 64513" || p.Metric != 42 || p.LocPrf == 250 || p.Community.String != "64512:5" || p.Large.String != "70000:1:2" {
			t.Errorf("FRR sees %+v", p)
		}
		for _, w := range []string{"RT:64512:77", "RT:70000:78", "SoO:10.0.0.1:79"} {
			if !strings.Contains(p.Extended.String, w) {
				t.Errorf("FRR sees extended communities %q, not %s", p.Extended.String, w)
			}
		}
		if len(p.Nexthops) == 0 || p.Nexthops[0].IP != q.hop {
			t.Errorf("FRR has next hops %+v, want %s", p.Nexthops, q.hop)
		}
	}
	eventually(t, "the router's kernel forwards", func() bool {
		return strings.Contains(r.Run("ip", "route"), "198.51.100.1") && strings.Contains(r.Run("ip", "-6", "route"), "2001:db8:1::1")
	})
}

// Two sessions stand for two nodes: FRR weighs them by their link bandwidths.
func TestFRRWeighsByLinkBandwidth(t *testing.T) {
	for _, tt := range []struct {
		name   string
		remote int
	}{{"external", 64513}, {"internal", 64512}} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRealRouter(t, "vtysh")
			out, err := exec.CommandContext(t.Context(), "ip", "addr", "add", "10.99.0.2/24", "dev", "lb0").CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			r.frr(frrLB(tt.remote, "", "10.99.0.1", "10.99.0.2"))
			s := begin(t, Options{})
			var plan loadbalancer.BGPPlan
			plan.Routes = make(map[string][]loadbalancer.BGPRoute)
			for i, source := range []string{"10.99.0.1", "10.99.0.2"} {
				spec := realSpec(func(s *loadbalancer.BGPSession) {
					s.MyASN = uint32(tt.remote)
					s.Peer, s.Source, s.RouterID = source, netip.MustParseAddr(source), netip.MustParseAddr(source)
				})
				one := route("198.51.100.1/32")
				one.LinkBandwidth = uint32(3 - 2*i)
				plan.Sessions = append(plan.Sessions, spec)
				plan.Routes[source] = []loadbalancer.BGPRoute{one}
			}
			s.Apply(plan, ours)
			awaitState(t, s, "10.99.0.1", Established)
			awaitState(t, s, "10.99.0.2", Established)
			var got string
			eventually(t, "the kernel has both with weights 3 to 1", func() bool {
				got = r.Run("ip", "route", "show", "198.51.100.1")
				var a, b int
				for line := range strings.SplitSeq(got, "\n") {
					f := strings.Fields(line)
					for i := range f {
						if f[i] == "weight" && strings.Contains(line, "10.99.0.1 ") {
							_, _ = fmt.Sscan(f[i+1], &a)
						} else if f[i] == "weight" && strings.Contains(line, "10.99.0.2 ") {
							_, _ = fmt.Sscan(f[i+1], &b)
						}
					}
				}
				return b > 0 && a >= 3*b-3 && a <= 3*b+3 && a > 2*b
			})
			t.Log(got)
		})
	}
}

func TestFRRKeepsRoutesOverARestart(t *testing.T) {
	r := newRealRouter(t, "vtysh")
	r.frr(frrLB(64513, " bgp graceful-restart\n", "10.99.0.1"))
	spec := realSpec(func(s *loadbalancer.BGPSession) { s.GracefulRestart = true })
	restartKeeps(t, r, spec, append(full(), many(300)...))
}

func TestFRRWithPasswordAndHopCount(t *testing.T) {
	r := newRealRouter(t, "vtysh")
	r.frr(frrLB(64513, " neighbor 10.99.0.1 password s3cret\n neighbor 10.99.0.1 ttl-security hops 1\n", "10.99.0.1"))
	s := begin(t, Options{})
	s.Apply(planOf(full(), realSpec(func(s *loadbalancer.BGPSession) { s.Password, s.TTLSecurity = "s3cret", 1 })), ours)
	awaitState(t, s, "r", Established)
	var got struct {
		RouterID string `json:"routerId"`
		Peers    map[string]struct {
			State  string `json:"state"`
			PfxRcd int    `json:"pfxRcd"`
		}
	}
	eventually(t, "FRR has the routes", func() bool {
		r.vtysh("show bgp ipv4 unicast summary json", &got)
		return got.Peers["10.99.0.1"].State == "Established" && got.Peers["10.99.0.1"].PfxRcd == 1
	})
}
