// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/soak/l2"
)

const (
	// calm is how long a prober, or a plain pod that it asks, may stand still before what
	// it saw of an address is in doubt.
	calm = 100 * time.Millisecond
	// attempts is how often a disturbance is made whose outcome is in doubt each time.
	attempts = 3
)

// trial is one disturbance and what is wrong with its outcome.
type trial func(ctx context.Context) (o *l2.Outcome, faults []string, err error)

// try makes a disturbance. What is wrong with its outcome counts if the machine was calm
// meanwhile, which the probers and a stream to a plain pod witness, or if something is
// wrong each of three times: a machine that stands still for a moment breaks some promise
// sometimes, a fault of ours breaks the same one again.
func try(t *testing.T, f *l2.Field, disturb trial) {
	t.Helper()
	for n := 1; ; n++ {
		o, faults, err := disturb(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s; the machine stood still for %s", o, o.Stall())
		if len(faults) == 0 {
			return
		}
		if n == attempts || o.Stall() <= calm {
			t.Errorf("%s: %s", o, strings.Join(faults, "; "))
			return
		}
		t.Logf("in doubt, so once more: %s", strings.Join(faults, "; "))
		// A kubelet starts an agent that ended before again only after a pause.
		if _, err := lab.Kubectl(t.Context(), "rollout", "restart", "-n", harness.Namespace, "daemonset/fairlead-node-agent"); err != nil {
			t.Fatal(err)
		}
		if _, err := lab.Kubectl(t.Context(), "rollout", "status", "-n", harness.Namespace, "daemonset/fairlead-node-agent", "--timeout=180s"); err != nil {
			t.Fatal(err)
		}
		if err := f.Whole(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
