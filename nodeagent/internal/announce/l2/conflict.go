// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

const (
	// defendInterval is the least time between two defences of one address (RFC 5227 §1.1,
	// DEFEND_INTERVAL).
	defendInterval = 10 * time.Second
	// conflictLife is how long a conflict is told of after the last sign of it.
	conflictLife = time.Minute
	// noticeGap is the least time between two notices of conflicts: a host that claims
	// thousands of addresses must not keep the owner loop busy.
	noticeGap = 500 * time.Millisecond
	// maxLines are logged of conflicts in a defendInterval.
	maxLines = 20
)

// Conflict says that a host which is no node agent claims an address that this node
// announces.
type Conflict struct {
	plan.Announcement
	// MAC is the link-layer address of the host when the address was last defended.
	MAC kernel.MAC
	// Since is when it first did.
	Since time.Time
}

// conflicts are those of one announcer. There is at most one for each address that is
// announced, whatever a hostile neighbour sends.
type conflicts struct {
	mu sync.Mutex
	// nodes are the link-layer addresses of node agents.
	nodes map[kernel.MAC]struct{}         // guarded by mu
	seen  map[plan.Announcement]*conflict // guarded by mu
	// defend are the addresses to defend.
	defend []plan.Announcement // guarded by mu
	wake   chan struct{}
	// noticed is when the last notice was given, notice says that another is due.
	noticed time.Time // guarded by mu
	notice  bool      // guarded by mu
	// lines were logged since window, quiet were not.
	window       time.Time // guarded by mu
	lines, quiet int       // guarded by mu
}

// conflict is guarded by conflicts.mu.
type conflict struct {
	mac                   kernel.MAC
	first, last, defended time.Time
}

func newConflicts() conflicts {
	return conflicts{seen: make(map[plan.Announcement]*conflict), wake: make(chan struct{}, 1)}
}

// SetNodes says which link-layer addresses belong to node agents, this one's included:
// what they claim is the plan's business and no conflict. Until it is called, and after
// nil, nobody is foreign.
func (a *Announcer) SetNodes(macs map[kernel.MAC]struct{}) {
	a.conflicts.mu.Lock()
	defer a.conflicts.mu.Unlock()
	a.conflicts.nodes = macs
}

// Conflicts returns the conflicts of the last minute by address.
func (a *Announcer) Conflicts(now time.Time) []Conflict {
	a.conflicts.mu.Lock()
	defer a.conflicts.mu.Unlock()
	var out []Conflict
	for k, c := range a.conflicts.seen {
		if now.Sub(c.last) < conflictLife && a.announces(k.Interface, k.Addr) {
			out = append(out, Conflict{k, c.mac, c.first})
		}
	}
	slices.SortFunc(out, func(x, y Conflict) int {
		return cmp.Or(x.Addr.Compare(y.Addr), cmp.Compare(x.Interface, y.Interface))
	})
	return out
}

// noteClaim notes a claim to an address that this node announces, and has it defended at
// most every ten seconds. The node never gives an address up for that (RFC 5227 §2.4
// (c)): who owns an address of a pool is not the stranger's to say.
func (a *Announcer) noteClaim(ctx context.Context, now time.Time, k plan.Announcement, from kernel.MAC) {
	if !a.conflicts.note(now, k, from) {
		return
	}
	if say, quiet := a.conflicts.mayLog(now); say {
		klog.FromContext(ctx).Info("Another host claims an address that this node announces; telling the neighbours who has it",
			"address", k.Addr, "mac", from.String(), "interface", k.Interface, "protocol", a.protocol.Name(), "unlogged", quiet)
	}
	a.giveNotice(now)
	select {
	case a.conflicts.wake <- struct{}{}:
	default:
	}
}

// note says whether the address is to be defended now.
func (cs *conflicts) note(now time.Time, k plan.Announcement, from kernel.MAC) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if _, ours := cs.nodes[from]; ours || cs.nodes == nil {
		return false
	}
	c := cs.seen[k]
	if c == nil {
		c = &conflict{first: now}
		cs.seen[k] = c
	}
	if now.Sub(c.last) >= conflictLife {
		c.first = now
	}
	c.last = now
	if !c.defended.IsZero() && now.Sub(c.defended) < defendInterval {
		return false
	}
	c.mac, c.defended = from, now
	cs.defend = append(cs.defend, k)
	cs.notice = true
	return true
}

// mayLog says whether there is room for a line in the log, and how many had none before.
func (cs *conflicts) mayLog(now time.Time) (say bool, quiet int) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if now.Sub(cs.window) >= defendInterval {
		cs.window, cs.lines = now, 0
	}
	if cs.lines++; cs.lines > maxLines {
		cs.quiet++
		return false, 0
	}
	quiet, cs.quiet = cs.quiet, 0
	return true, quiet
}

// noticeDue is when a notice is due, false while none is.
func (cs *conflicts) noticeDue() (time.Time, bool) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return cs.noticed.Add(noticeGap), cs.notice
}

// takeNotice says whether a notice is due, once.
func (cs *conflicts) takeNotice(now time.Time) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if !cs.notice || now.Sub(cs.noticed) < noticeGap {
		return false
	}
	cs.noticed, cs.notice = now, false
	return true
}

// giveNotice has the owner loop look at the conflicts, if that is due.
func (a *Announcer) giveNotice(now time.Time) {
	if a.conflicts.takeNotice(now) {
		a.notify()
	}
}

// takeDefences returns what is to be defended, and forgets conflicts about addresses that
// are no longer announced or that are over.
func (cs *conflicts) takeDefences(now time.Time, current table) []plan.Announcement {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	maps.DeleteFunc(cs.seen, func(k plan.Announcement, c *conflict) bool {
		_, ok := current[k]
		return !ok || now.Sub(c.last) >= conflictLife
	})
	out := cs.defend
	cs.defend = nil
	return out
}

// defend queues one announcement of each address that a stranger claims.
func (r *runner) defend(now time.Time) {
	for _, k := range r.a.conflicts.takeDefences(now, *r.a.current.Load()) {
		if t, ok := r.told[k]; ok {
			r.later.add(job{due: now, key: k, run: t.run, once: true})
		}
	}
}

// claimed is the announcement of an address on a link, false if there is none.
func (a *Announcer) claimed(link string, addr netip.Addr) (plan.Announcement, bool) {
	k := plan.Announcement{Interface: link, Addr: addr}
	return k, a.announces(link, addr)
}
