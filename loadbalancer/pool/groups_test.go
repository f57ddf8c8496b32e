// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
)

// Groups are the connected components, named after their lowest claim.
func TestGroups(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		claims := make(map[string][]loadbalancer.ServiceUID)
		for i := range rapid.IntRange(0, 12).Draw(t, "claims") {
			uids := rapid.SliceOfN(rapid.SampledFrom([]loadbalancer.ServiceUID{"a", "b", "c", "d", "e", "f", "g", "h"}), 0, 3).Draw(t, "services")
			claims[fmt.Sprintf("c%02d", i)] = uids
		}
		want := make(map[string]string)
		for c := range claims {
			want[c] = c
		}
		linked := func(a, b string) bool {
			return slices.ContainsFunc(claims[a], func(u loadbalancer.ServiceUID) bool { return slices.Contains(claims[b], u) })
		}
		for range claims {
			for a := range claims {
				for b := range claims {
					if linked(a, b) {
						want[a] = min(want[a], want[b])
					}
				}
			}
		}
		if diff := cmp.Diff(want, pool.Groups(claims)); diff != "" {
			t.Fatalf("Groups(%v) (-want +got):\n%s", claims, diff)
		}
	})
}
