// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/intake"
)

// Epochs learned of what changed are those learned of all, and those that are others are told.
func TestEpochsFollowWhatChanged(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 4))
		name := func() loadbalancer.Group { return loadbalancer.Group(fmt.Sprint(r.IntN(8))) }
		var objs intake.Objects
		var all, some epochs
		for step := range 60 {
			before, old := objs, maps.Clone(some.highest)
			objs.Claims = slices.Clone(objs.Claims)
			for range r.IntN(3) {
				c := loadbalancer.Claim{Name: name(), Persisted: loadbalancer.Ownership{Epoch: r.Uint64N(5)}}
				c.Group = c.Name
				if r.IntN(3) == 0 {
					c.Group = name()
				}
				objs.Claims = slices.DeleteFunc(objs.Claims, func(o loadbalancer.Claim) bool { return o.Name == c.Name })
				if r.IntN(3) != 0 {
					objs.Claims = append(objs.Claims, c)
				}
			}
			members := map[loadbalancer.NodeName]plan.Member{"n": {Claims: map[loadbalancer.Group]uint64{name(): r.Uint64N(9)}}}
			changed := changesOf(before, objs)
			all.learn(nil, objs.Claims, members)
			some.learn(changed, objs.Claims, members)
			if diff := cmp.Diff(all.highest, some.highest); diff != "" || !reflect.DeepEqual(all.named, some.named) {
				t.Fatalf("seed %d, step %d (-of all +of what changed):\n%s", seed, step, diff)
			}
			for n := range maps.Keys(some.named) {
				if epoch, known := old[n]; known && epoch == some.highest[n] {
					continue
				}
				if _, told := changed.Epochs[n]; !told && step > 0 {
					t.Fatalf("seed %d, step %d: nobody tells of the epoch of %s", seed, step, n)
				}
			}
		}
	}
}
