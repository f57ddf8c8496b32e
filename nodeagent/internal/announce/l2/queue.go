// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
)

// job is the next step of one address's burst.
type job struct {
	due     time.Time
	key     plan.Announcement
	epoch   uint64
	step    int
	started time.Time
}

// queue holds jobs by due time; equal times keep their order.
type queue []job

func (q *queue) push(j job) {
	at, _ := slices.BinarySearchFunc(*q, j, func(a, b job) int {
		if c := a.due.Compare(b.due); c != 0 {
			return c
		}
		return -1
	})
	*q = slices.Insert(*q, at, j)
}

func (q *queue) pop() job {
	j := (*q)[0]
	*q = (*q)[1:]
	return j
}
