// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"fmt"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// Nodes that come and go all day are forgotten; what counts of the others stays.
func TestLedgerForgetsNodesThatAreGone(t *testing.T) {
	t.Parallel()
	l := newLedger()
	pair := []loadbalancer.NodeName{"a", "b"}
	l.reserve("other", []loadbalancer.NodeName{"b", "a"}, true, time.Time{})
	for i := range 10 * maxStale {
		gone := loadbalancer.NodeName(fmt.Sprintf("spot-%d", i))
		l.reserve("group", []loadbalancer.NodeName{gone, "a"}, true, time.Time{})
		l.reserve("group", pair, true, time.Time{})
		l.compact(2)
	}
	if len(l.ids) > 2*maxStale || len(l.load) != len(l.ids) || len(l.heirs) != len(l.ids) {
		t.Errorf("%d nodes are numbered, %d and %d counted", len(l.ids), len(l.load), len(l.heirs))
	}
	if a, b := l.load[l.id("a")], l.load[l.id("b")]; a != 1 || b != 1 {
		t.Errorf("loads %d and %d, want 1 each", a, b)
	}
	if got := l.heirsWithout("other")("a")[l.id("b")]; got != 1 {
		t.Errorf("b is heir of %d of a's groups, want 1", got)
	}
	if got := l.heirsWithout("group")("a")[l.id("b")]; got != 0 {
		t.Errorf("b is heir of %d of a's other groups, want none", got)
	}
}
