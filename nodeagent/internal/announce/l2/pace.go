// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"container/heap"
	"hash/fnv"
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
)

const (
	// maxRate bounds the unsolicited frames per second of one protocol on one link: ten
	// thousand addresses that move must not look like a storm. At 64 bytes it is 2 Mbit/s.
	maxRate = 4000
	// maxBurst is how many frames may go at once after a rest.
	maxBurst = 500
	// batch is how many frames are waited for while the rate is the limit.
	batch = 50
)

// job is the next time that the neighbours are told of one address.
type job struct {
	due time.Time
	key plan.Announcement
	// run tells this job from earlier ones of the same address.
	run  uint64
	step int
	// once says that nothing follows: a defence.
	once bool
	// started is when the address was taken over.
	started time.Time
}

// jobs is a heap; the first is the one that less puts first.
type jobs struct {
	list []job
	less func(a, b *job) bool
}

func (q *jobs) Len() int           { return len(q.list) }
func (q *jobs) Less(i, j int) bool { return q.less(&q.list[i], &q.list[j]) }
func (q *jobs) Swap(i, j int)      { q.list[i], q.list[j] = q.list[j], q.list[i] }

// Push is for package heap; use add.
func (q *jobs) Push(x any) {
	if j, ok := x.(job); ok {
		q.list = append(q.list, j)
	}
}

// Pop is for package heap; use take.
func (q *jobs) Pop() any {
	j := q.list[len(q.list)-1]
	q.list = q.list[:len(q.list)-1]
	return j
}

func (q *jobs) add(j job) { heap.Push(q, j) }

func (q *jobs) take() job {
	j := q.list[0]
	heap.Pop(q)
	return j
}

func byDue(a, b *job) bool { return a.due.Before(b.due) }

// byStep puts addresses of which nothing was told yet before all others.
func byStep(a, b *job) bool {
	if a.step != b.step {
		return a.step < b.step
	}
	return a.due.Before(b.due)
}

// outbox holds what is due on one link and lets it go at a bounded rate.
type outbox struct {
	due    jobs
	tokens float64
	filled time.Time
}

func newOutbox(now time.Time) *outbox {
	return &outbox{due: jobs{less: byStep}, tokens: maxBurst, filled: now}
}

// fill adds the frames that may be sent by now.
func (o *outbox) fill(now time.Time) {
	o.tokens = min(maxBurst, o.tokens+now.Sub(o.filled).Seconds()*maxRate)
	o.filled = now
}

// ready says when to look again; false while nothing is due.
func (o *outbox) ready() (time.Time, bool) {
	if o.due.Len() == 0 {
		return time.Time{}, false
	}
	wait := max(0, batch-o.tokens) / maxRate
	return o.filled.Add(time.Duration(wait * float64(time.Second))), true
}

// nextStep is when to tell of an address again after it was told, false if never: the
// rest of the burst, then every repeat, spread by address over the interval.
func (j *job) nextStep(burst []time.Duration, repeat time.Duration) bool {
	if j.once {
		return false
	}
	if j.step++; j.step < len(burst) {
		j.due = j.started.Add(burst[j.step])
		return true
	}
	if repeat <= 0 {
		return false
	}
	if j.step == len(burst) {
		j.due = j.started.Add(repeat/2 + phase(j.key.Addr, repeat))
	} else {
		j.due = j.due.Add(repeat)
	}
	j.step = min(j.step, len(burst)+1)
	return true
}

// phase is from 0 to repeat, the same for an address each time.
func phase(a netip.Addr, repeat time.Duration) time.Duration {
	b := a.As16()
	h := fnv.New32a()
	_, _ = h.Write(b[:]) // a hash does not fail
	return time.Duration(float64(h.Sum32()) / (1 << 32) * float64(repeat))
}
