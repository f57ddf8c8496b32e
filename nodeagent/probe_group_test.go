// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"net/netip"
	"testing"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// An address that joins a group which is announced gives the group its name if it is the
// lowest: as when a Service gets a second address, or IPv4 beside IPv6. The epoch that the
// group goes on with is none of the address's own: it is probed for.
func TestDuplicateJoinsAGroup(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "c", "a")
		s.wait(5 * time.Second)
		s.takes(low, stranger())
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
		s.powerCut("b")
		s.wait(time.Millisecond)
		if got := s.who(vip) + "," + s.who(low); got != "c,c" {
			s.t.Errorf("after the cut answered by %q, want %q", got, "c,c")
		}
	})
}

// A host that answers each round of probes from another MAC address is told of by the one
// that it has now, and fills no log.
func TestChangingStrangerIsLoggedOnce(t *testing.T) {
	t.Parallel()
	k := plan.Announcement{Interface: "eth0", Addr: netip.MustParseAddr(vip)}
	p := newProbes(func(plan.Announcement) bool { return true }, func() {})
	p.setNodes(map[kernel.MAC]struct{}{})
	logger := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.BufferLogs(true), ktesting.Verbosity(0)))
	ctx := klog.NewContext(t.Context(), logger)
	now := time.Unix(1, 0)
	p.verdict(now, k)
	var last kernel.MAC
	for i := range 100 {
		p.turn(ctx, now)
		last = kernel.MAC{2, 0, 0, 0, 0, byte(i)}
		p.heard(now, k, last)
		p.log(ctx)
		now = now.Add(probeAgain)
	}
	if got := p.duplicates(); len(got) != 1 || got[0].mac != last {
		t.Errorf("duplicates %v, want one at %s", got, last)
	}
	buffer, ok := logger.GetSink().(ktesting.Underlier)
	if !ok {
		t.Fatal("no buffer")
	}
	if got := len(buffer.GetBuffer().Data()); got != 1 {
		t.Errorf("%d lines in the log, want 1", got)
	}
}
