// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"maps"
	"time"

	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/member"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/pulse"
)

const (
	// crashGrace is how long a node keeps its addresses that the gossip lost without a
	// goodbye and whose kernel answers: its agent may be restarting, or starved.
	crashGrace = 5 * time.Second
	// patience bounds crashGrace where it starts anew because this agent stalled itself.
	patience = 3 * crashGrace
	// resume is how long an agent that is back has to claim what it had, and how long
	// nodes that come together again have to find each other.
	resume = 2 * time.Second
)

// living is what the owner loop remembers of who was alive, to tell a node that is dead
// from one whose agent is away.
type living struct {
	// last is what each member told when it was last seen, with the run it was told in.
	last map[loadbalancer.NodeName]lastSeen
	// absent are nodes that the gossip lost and that have not been given up.
	absent map[loadbalancer.NodeName]*absent
	// back are members that became such lately, with what they claimed before.
	back map[loadbalancer.NodeName]returned
	// given are the departures of nodes that have been given up, not to be held again.
	given map[loadbalancer.NodeName]time.Time
	// dead are members whose kernels do not answer, lost are nodes that were members and
	// were given up for dead since, mourned are those of both that count.
	dead, lost, mourned map[loadbalancer.NodeName]struct{}
	// unknown are members that have told nothing yet, and since when.
	unknown map[loadbalancer.NodeName]time.Time
	// minority is the guard's last word, apart until when it has an effect after its end.
	minority bool
	apart    time.Time
}

type lastSeen struct {
	run    member.Run
	member plan.Member
}

type absent struct {
	member plan.Member
	run    member.Run
	// since is when it went, until is when it is given up, announced says that it told so.
	since, until time.Time
	announced    bool
	// confirmed says that its kernel answered since, or that it is taken at its word.
	confirmed bool
}

type returned struct {
	claims map[loadbalancer.Group]uint64
	until  time.Time
	// same says that the agent ran on: it was cut off or frozen, not restarted.
	same bool
}

func newLiving() *living {
	return &living{
		last: make(map[loadbalancer.NodeName]lastSeen), absent: make(map[loadbalancer.NodeName]*absent),
		back: make(map[loadbalancer.NodeName]returned), given: make(map[loadbalancer.NodeName]time.Time),
		dead: make(map[loadbalancer.NodeName]struct{}), lost: make(map[loadbalancer.NodeName]struct{}), unknown: make(map[loadbalancer.NodeName]time.Time),
	}
}

// members are the nodes that count as alive in this round, this one included, with what
// they claim. Two detectors say who does: the gossip, which knows everybody and is misled
// by an agent that does not run, and the pulse, which asks the kernels of a few.
//
//   - A member counts, unless its kernel is dead.
//   - A node that the gossip lost counts as absent while its kernel answers: until its
//     agent said that it would be back, or for crashGrace. Without a link in common nobody
//     can ask its kernel; then it counts only if it said that it would be back.
//   - A node that said that it leaves counts no longer.
//   - What a member claimed before it was away counts for a moment after its return.
func (l *loop) members(ctx context.Context, now time.Time, view member.View) map[loadbalancer.NodeName]plan.Member {
	out := make(map[loadbalancer.NodeName]plan.Member, len(view.Members)+1)
	// First, because no later round is due for what is over in this one.
	l.living.forget(now, view)
	before := l.living.dead
	l.living.dead = make(map[loadbalancer.NodeName]struct{})
	for n, m := range view.Members {
		run := view.Runs[n]
		delete(l.living.lost, n)
		l.living.noteReturn(now, n, m, run)
		if l.a.pulse.State(n) == pulse.Dead {
			l.living.dead[n] = struct{}{}
			if _, known := before[n]; !known {
				l.a.metrics.DirectDeath()
				klog.FromContext(ctx).Info("Node's kernel does not answer", "peer", n)
			}
			continue
		}
		out[n] = l.living.resumed(n, m, run)
	}
	for n, g := range view.Gone {
		if _, member := view.Members[n]; member {
			continue
		}
		if a := l.absentee(ctx, now, n, g); a != nil {
			out[n] = a.member
		}
	}
	out[l.a.name()] = l.self()
	l.a.metrics.SetAbsent(len(l.living.absent))
	return out
}

// noteReturn notes a member that is one anew, or by a new run of its agent.
func (v *living) noteReturn(now time.Time, n loadbalancer.NodeName, m plan.Member, run member.Run) {
	last, seen := v.last[n]
	if seen && (last.run.Boot != run.Boot || last.run.Joins != run.Joins) && len(last.member.Claims) > 0 && !last.member.Leaving {
		v.back[n] = returned{claims: last.member.Claims, until: now.Add(resume), same: last.run.Boot == run.Boot}
	}
	delete(v.absent, n)
	delete(v.given, n)
	switch {
	case m.Known:
		v.last[n] = lastSeen{run, m}
	case seen:
		last.run = run
		v.last[n] = last
	}
}

// resumed is a member with what it claimed before it was away, as far as it has not told
// anew of the same claims.
func (v *living) resumed(n loadbalancer.NodeName, m plan.Member, run member.Run) plan.Member {
	m.Absent = run.Restarting > 0
	b, ok := v.back[n]
	if !ok || m.Leaving {
		return m
	}
	if !m.Known {
		m = v.last[n].member
		m.Absent = true
		return m
	}
	claims := maps.Clone(b.claims)
	maps.Copy(claims, m.Claims)
	m.Claims = claims
	return m
}

// claims are what a member claims, or claimed until a moment ago if its agent was cut off
// until then: it may have yielded already, but its neighbours do not know.
func (v *living) claims(n loadbalancer.NodeName, m plan.Member) map[loadbalancer.Group]uint64 {
	b := v.back[n]
	if !b.same {
		return m.Claims
	}
	claims := maps.Clone(b.claims)
	maps.Copy(claims, m.Claims)
	return claims
}

// absentee is a node that the gossip lost, nil if it does not count any longer.
func (l *loop) absentee(ctx context.Context, now time.Time, n loadbalancer.NodeName, g member.Gone) *absent {
	v := l.living
	if at, ok := v.given[n]; ok && at.Equal(g.At) {
		return nil
	}
	a := v.absent[n]
	if a == nil || !a.since.Equal(g.At) {
		a = &absent{since: g.At}
		v.absent[n] = a
	}
	a.run = g.Run
	a.member, a.announced = g.Last, g.Restarting > 0
	if !g.Last.Known {
		a.member = v.last[n].member
	}
	a.member.Absent = true
	if a.announced {
		a.until = g.At.Add(g.Restarting)
	} else if a.until.IsZero() {
		a.until = g.At.Add(crashGrace)
	}
	_, shared := l.segment(n, a.member, nil)
	shared = shared && l.a.timing.PulseMisses > 0
	state := l.a.pulse.State(n)
	a.confirmed = state == pulse.Alive || a.announced && !shared
	cause := ""
	switch {
	case g.Last.Leaving:
		cause = "it said that it leaves"
	case !a.member.Known:
		cause = "it never told anything"
	case !now.Before(a.until):
		cause = "its agent did not come back in time"
	case state == pulse.Dead:
		cause = "its kernel does not answer"
	case !shared && !a.announced:
		cause = "its kernel cannot be asked"
	default:
		return a
	}
	klog.FromContext(ctx).Info("Giving up a node that the gossip lost", "peer", n, "cause", cause, "claims", len(a.member.Claims))
	delete(v.absent, n)
	v.given[n] = g.At
	if a.member.Known && !g.Last.Leaving && (state == pulse.Dead || state != pulse.Alive && !a.announced) {
		v.lost[n] = struct{}{}
	}
	return nil
}

// mourn returns the nodes whose pods are to get nothing new: they were members, and went
// without a goodbye and without a sign of life of their kernels. An agent that is away
// while its node's kernel answers says nothing about the pods there. While verdicts of
// death are held, none is added; an agent that sees too few others has none, because then
// it is more likely that they see each other.
func (v *living) mourn(held, minority bool, nodes map[loadbalancer.NodeName]loadbalancer.Node) map[loadbalancer.NodeName]struct{} {
	out := make(map[loadbalancer.NodeName]struct{}, len(v.dead)+len(v.lost))
	maps.Copy(out, v.dead)
	maps.Copy(out, v.lost)
	maps.DeleteFunc(v.lost, func(n loadbalancer.NodeName, _ struct{}) bool { _, exists := nodes[n]; return !exists })
	maps.DeleteFunc(out, func(n loadbalancer.NodeName, _ struct{}) bool {
		_, exists := nodes[n]
		_, before := v.mourned[n]
		return !exists || minority || held && !before
	})
	v.mourned = out
	return out
}

// gathering says whether nodes may be on their way back into the gossip, of whose claims
// this one cannot know: it saw too few of them a moment ago, or some have told nothing
// yet. When a partition heals, its members come one after the other.
func (v *living) gathering(now time.Time, minority bool, members map[loadbalancer.NodeName]plan.Member) bool {
	if v.minority && !minority {
		v.apart = now.Add(resume)
	}
	if !now.Before(v.apart) {
		v.apart = time.Time{}
	}
	v.minority = minority
	maps.DeleteFunc(v.unknown, func(n loadbalancer.NodeName, _ time.Time) bool {
		m, member := members[n]
		return !member || m.Known
	})
	gathering := now.Before(v.apart)
	for n, m := range members {
		if m.Known {
			continue
		}
		if _, seen := v.unknown[n]; !seen {
			v.unknown[n] = now
		}
		gathering = gathering || now.Sub(v.unknown[n]) < resume
	}
	return gathering
}

// forget drops what is over.
func (v *living) forget(now time.Time, view member.View) {
	maps.DeleteFunc(v.back, func(n loadbalancer.NodeName, b returned) bool {
		_, member := view.Members[n]
		return !member || !now.Before(b.until)
	})
	gone := func(n loadbalancer.NodeName) bool {
		_, member := view.Members[n]
		_, gone := view.Gone[n]
		return !member && !gone
	}
	maps.DeleteFunc(v.last, func(n loadbalancer.NodeName, _ lastSeen) bool { return gone(n) })
	maps.DeleteFunc(v.given, func(n loadbalancer.NodeName, _ time.Time) bool { return gone(n) })
	maps.DeleteFunc(v.absent, func(n loadbalancer.NodeName, _ *absent) bool { return gone(n) })
}

// due says whether the time of an absence or a return is over.
func (v *living) due(now time.Time) bool {
	for _, a := range v.absent {
		if !now.Before(a.until) {
			return true
		}
	}
	for _, b := range v.back {
		if !now.Before(b.until) {
			return true
		}
	}
	for _, since := range v.unknown {
		if d := now.Sub(since); d >= resume && d < 2*resume {
			return true
		}
	}
	return !v.apart.IsZero() && !now.Before(v.apart)
}

// confirmed are the members of whose life there is a sign: what the gossip lost a moment
// ago does not count before its kernel has answered. By these a node that is cut off
// knows that it sees too few.
func (v *living) confirmed(members map[loadbalancer.NodeName]plan.Member) map[loadbalancer.NodeName]plan.Member {
	out := maps.Clone(members)
	for n, a := range v.absent {
		if !a.confirmed {
			delete(out, n)
		}
	}
	return out
}

// stalled notes that this agent did not run for a while: what it holds for deaths may be
// its own deafness, so verdicts wait for as long as the gossip takes to reach new ones,
// and crashes are counted from now. If the others may have given it up meanwhile, it
// answers for nothing until they have told who has what.
func (l *loop) stalled(now time.Time, gap time.Duration) {
	l.holdUntil = now.Add(l.a.timing.Verdict())
	for _, a := range l.living.absent {
		if !a.announced {
			a.until = now.Add(crashGrace)
			if last := a.since.Add(patience); a.until.After(last) {
				a.until = last
			}
		}
	}
	if gap >= crashGrace-time.Second && len(l.living.last) > 0 {
		l.muteUntil = now.Add(hush)
		l.gossip.Ask()
		l.mute()
	}
}

// hush is how long an agent that was away for long answers for nothing: its peers' answers
// to what they have take less.
const hush = 300 * time.Millisecond

// mute stops answering at once.
func (l *loop) mute() {
	l.a.arp.Apply(l.links, nil)
	l.a.ndp.Apply(l.links, nil)
}
