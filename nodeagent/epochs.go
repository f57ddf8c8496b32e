// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
)

// epochs are the highest ones ever heard of, of every claim and group that there is.
type epochs struct {
	highest map[loadbalancer.Group]uint64
	// named counts the claims that have a name, or are in the group of that name.
	named map[loadbalancer.Group]int
}

// learn takes the claims and what members claim. Where it is known what changed it looks at
// those claims only, and adds the names whose epochs are others.
func (e *epochs) learn(changed *loadbalancer.Changes, claims []loadbalancer.Claim, members ...map[loadbalancer.NodeName]plan.Member) {
	if changed == nil || changed.All || e.named == nil {
		e.learnAll(claims)
	} else {
		e.learnSome(changed)
	}
	for _, of := range members {
		for _, m := range of {
			for g, epoch := range m.Claims {
				if have, known := e.highest[g]; known && epoch > have {
					e.highest[g] = epoch
					if changed != nil {
						changed.Epoch(g)
					}
				}
			}
		}
	}
}

func (e *epochs) learnAll(claims []loadbalancer.Claim) {
	old := e.highest
	e.highest = make(map[loadbalancer.Group]uint64, len(claims))
	e.named = make(map[loadbalancer.Group]int, len(claims))
	for i := range claims {
		for _, n := range [...]loadbalancer.Group{claims[i].Name, claims[i].Group} {
			e.named[n]++
			e.highest[n] = max(e.highest[n], old[n], claims[i].Persisted.Epoch)
		}
	}
}

func (e *epochs) learnSome(changed *loadbalancer.Changes) {
	for _, is := range changed.Claims {
		if is.Now == nil {
			continue
		}
		for _, n := range [...]loadbalancer.Group{is.Now.Name, is.Now.Group} {
			e.named[n]++
			if have, known := e.highest[n]; !known || is.Now.Persisted.Epoch > have {
				e.highest[n] = is.Now.Persisted.Epoch
				changed.Epoch(n)
			}
		}
	}
	// Only now: a name that goes from one claim to another keeps its epoch.
	for _, is := range changed.Claims {
		if is.Before == nil {
			continue
		}
		for _, n := range [...]loadbalancer.Group{is.Before.Name, is.Before.Group} {
			if e.named[n]--; e.named[n] <= 0 {
				delete(e.named, n)
				delete(e.highest, n)
				changed.Epoch(n)
			}
		}
	}
}
