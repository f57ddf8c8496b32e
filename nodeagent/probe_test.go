// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

func stranger() kernel.MAC { return kernel.MAC{2, 0, 0, 0, 9, 9} }

// takes puts a host on the LAN that has an address; with no MAC it goes.
func (s *sim) takes(addr string, mac kernel.MAC) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if mac == (kernel.MAC{}) {
		delete(s.foreign, netip.MustParseAddr(addr))
		return
	}
	s.foreign[netip.MustParseAddr(addr)] = mac
}

// conflicts are those of a node in the API, in short.
func (s *sim) conflicts(name string) string {
	n, ok := s.agents.Peek(name)
	if !ok {
		return "no NodeAgent"
	}
	var out []string
	for _, c := range n.Status.Conflicts {
		out = append(out, fmt.Sprintf("%s on %s: %s announced=%t", c.Address, c.Interface, c.MAC, c.Announced))
		if c.Since.IsZero() {
			out = append(out, "without a time")
		}
	}
	return strings.Join(out, "; ")
}

// An address that a host outside the cluster has is not announced, not claimed, and
// reported with the host's MAC; it is announced soon after the host is gone.
func TestForeignHolder(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{vip, "fd00::200"} {
		t.Run(addr, func(t *testing.T) {
			t.Parallel()
			simulate(t, abc(), func(s *sim) {
				s.takes(addr, stranger())
				s.bind(addr, loadbalancer.Cluster, "b", "c", "a")
				name := s.claims.List()[0].Name
				s.wait(1500 * time.Millisecond)
				want := addr + " on eth0: 02:00:00:00:09:09 announced=false"
				if got := s.conflicts("b"); got != want {
					s.t.Errorf("conflicts of b after 1.5 s: %q, want %q", got, want)
				}
				if got := gaugeOf(s, "b", "fairlead_agent_duplicate_addresses"); got != 1 {
					s.t.Errorf("%v duplicates in the metrics, want 1", got)
				}
				s.wait(time.Minute)
				for _, n := range abc() {
					if got := s.conflicts(string(n)); n != "b" && got != "" {
						s.t.Errorf("conflicts of %s: %q", n, got)
					}
				}
				if got := s.conflicts("b"); got != want {
					s.t.Errorf("conflicts of b after a minute: %q, want %q", got, want)
				}
				if who, owner := s.who(addr), s.owner(name); who != "" || owner != "" {
					s.t.Errorf("%q answers, owner is %q, want nobody", who, owner)
				}
				s.takes(addr, kernel.MAC{})
				s.wait(12 * time.Second)
				if who, owner := s.who(addr), s.owner(name); who != "b" || owner != "b@1" {
					s.t.Errorf("when the host is gone %q answers, owner is %q, want b and b@1", who, owner)
				}
				if got := s.conflicts("b"); got != "" {
					s.t.Errorf("conflicts of b when the host is gone: %q", got)
				}
			})
		})
	}
}

func gaugeOf(s *sim, node loadbalancer.NodeName, name string) float64 {
	g, ok := s.nodes[node].agent.d.registry, false
	families, err := g.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range families {
		if ok = f.GetName() == name; ok {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	s.t.Errorf("no metric %s", name)
	return -1
}

// Once an address was announced, nobody is asked: not at a take-over, not at a restart.
func TestNoProbesAfterTheFirstTime(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(time.Second)
		s.expect("before", "b", "b@1")
		s.takes(vip, stranger())
		s.powerCut("b")
		s.wait(time.Millisecond)
		s.expect("after the cut", "c", "c@2")
		s.terminate("c")
		s.wait(time.Millisecond)
		s.expect("after the leave", "a", "a@3")
	})
}

// What another node of the cluster answers is no duplicate: its kernel may know the
// address from elsewhere, and what nodes do is the plan's business.
func TestNodesAreNoDuplicates(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.takes(vip, kernel.MAC{2, 0, 0, 0, 0, 'c'})
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(time.Second)
		s.expect("beside a node", "b", "b@1")
	})
}

// A host that is about to take the address itself (RFC 5227 §2.1.1, RFC 4862 §5.4.3) has
// it as well as one that answers.
func TestForeignProbe(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{vip, "fd00::200"} {
		t.Run(addr, func(t *testing.T) {
			t.Parallel()
			simulate(t, abc(), func(s *sim) {
				s.bind(addr, loadbalancer.Cluster, "b", "c", "a")
				s.wait(100 * time.Millisecond)
				s.nodes["b"].hears(probeFrame(netip.MustParseAddr(addr), stranger()))
				s.wait(2 * time.Second)
				if got, want := s.conflicts("b"), addr+" on eth0: 02:00:00:00:09:09 announced=false"; got != want {
					s.t.Errorf("conflicts of b: %q, want %q", got, want)
				}
				s.wait(10 * time.Second)
				if who := s.who(addr); who != "b" {
					s.t.Errorf("after the host kept silent %q answers, want b", who)
				}
			})
		})
	}
}

// A host that turns up later is reported within a second, and the address stays.
func TestForeignClaimIsReported(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{vip, "fd00::200"} {
		t.Run(addr, func(t *testing.T) {
			t.Parallel()
			simulate(t, abc(), func(s *sim) {
				s.bind(addr, loadbalancer.Cluster, "b", "c", "a")
				s.wait(5 * time.Second)
				s.nodes["b"].hears(claimFrame(netip.MustParseAddr(addr), stranger()))
				s.wait(time.Second)
				if got, want := s.conflicts("b"), addr+" on eth0: 02:00:00:00:09:09 announced=true"; got != want {
					s.t.Errorf("conflicts of b: %q, want %q", got, want)
				}
				if who := s.who(addr); who != "b" {
					s.t.Errorf("%q answers, want b", who)
				}
				s.wait(conflictsGone)
				if got := s.conflicts("b"); got != "" {
					s.t.Errorf("conflicts of b long after: %q", got)
				}
			})
		})
	}
}

// conflictsGone is when a conflict is over and the loop has come round.
const conflictsGone = 75 * time.Second

// A group with two addresses of which a stranger has one announces the other.
func TestDuplicateInAGroup(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.takes(low, stranger())
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.bind(low, loadbalancer.Cluster, "b", "c", "a")
		s.share(vip, vip, low)
		s.group(low, vip, low)
		s.wait(3 * time.Second)
		if got := s.who(vip) + "," + s.who(low); got != "b," {
			s.t.Errorf("answered by %q, want %q", got, "b,")
		}
		s.takes(low, kernel.MAC{})
		s.wait(12 * time.Second)
		if got := s.who(vip) + "," + s.who(low); got != "b,b" {
			s.t.Errorf("when the host is gone answered by %q, want %q", got, "b,b")
		}
	})
}

// asker counts the probes per address and when they went out.
type asker struct {
	asked map[plan.Announcement][]time.Time
	deaf  bool
}

func (a *asker) ask(k plan.Announcement) bool {
	if a.deaf {
		return false
	}
	a.asked[k] = append(a.asked[k], time.Now())
	return true
}

// Three probes of each address, 100 to 200 ms apart, side by side, at a bounded rate; the
// verdict 150 ms after the last.
func TestProbesArePaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := &asker{asked: map[plan.Announcement][]time.Time{}}
		p := newProbes(a.ask, func() {})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- p.Run(ctx) }()
		begin := time.Now()
		want := make(map[plan.Announcement]struct{})
		for i := range 1000 {
			k := plan.Announcement{Interface: "eth0", Addr: netip.AddrFrom4([4]byte{10, 1, byte(i / 256), byte(i)})}
			want[k] = struct{}{}
			if got := p.verdict(begin, k); got != verdictPending {
				t.Fatalf("verdict %d at once", got)
			}
		}
		time.Sleep(2500 * time.Millisecond) //nolint:forbidigo // a bubble's clock
		synctest.Wait()
		perTenth := map[int64]int{}
		for k := range want {
			if got := p.verdict(time.Now(), k); got != verdictFree {
				t.Fatalf("%s: verdict %d after 2.5 s, want free", k.Addr, got)
			}
			at := a.asked[k]
			if len(at) != probeCount {
				t.Fatalf("%s: %d probes, want %d", k.Addr, len(at), probeCount)
			}
			for i, sent := range at {
				perTenth[sent.Sub(begin).Milliseconds()/100]++
				if i > 0 && (sent.Sub(at[i-1]) < probeGap-probeJitter) {
					t.Errorf("%s: %s between probes", k.Addr, sent.Sub(at[i-1]))
				}
			}
		}
		for tenth, n := range perTenth {
			if n > 220 {
				t.Errorf("%d probes in the tenth of a second %d", n, tenth)
			}
		}
		p.keep(nil)
		if len(p.of) != 0 || len(p.queue) != 0 || p.active.Load() != 0 {
			t.Error("something is remembered of what is no longer wanted")
		}
		a.deaf = true
		k := plan.Announcement{Interface: "eth0", Addr: netip.MustParseAddr("10.2.0.1")}
		p.verdict(time.Now(), k)
		time.Sleep(10 * time.Second) //nolint:forbidigo // a bubble's clock
		if got := p.verdict(time.Now(), k); got != verdictPending {
			t.Errorf("verdict %d on a link that takes no probes", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
