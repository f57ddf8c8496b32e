// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
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
