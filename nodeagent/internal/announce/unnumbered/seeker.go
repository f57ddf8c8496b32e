// SPDX-License-Identifier: Apache-2.0

package unnumbered

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/ndp"
)

const (
	// period of our advertisements, which is what FRR's are for BGP; a quarter of it is left to
	// chance (RFC 4861 §6.2.4).
	period = 10 * time.Second
	// spacing is how far apart they are at least (MIN_DELAY_BETWEEN_RAS), answer how long one
	// that is asked for may take (MAX_RA_DELAY_TIME).
	spacing = 3 * time.Second
	answer  = 500 * time.Millisecond
	// insist is between solicitations (RTR_SOLICITATION_INTERVAL). After the first three
	// (MAX_RTR_SOLICITATIONS) without an answer they come each seek.
	insist      = 4 * time.Second
	insistences = 3
	seek        = 16 * time.Second
	// keepZero is how long a router is held for there that says that it is nobody's default
	// router, as many in data centres do: their lifetime of 0 does not say when they are next
	// heard. They are asked in that time, as all are when two thirds of their time are over.
	keepZero = 90 * time.Second
	// doubt is how long several routers have to prove that they are there: two questions with
	// their answers. While several are, they are asked each doubtEvery.
	doubt      = 2 * insist
	doubtEvery = 30 * time.Second
	// maxRouters are remembered, of whoever says to be one.
	maxRouters = 8
)

// router is one that was heard.
type router struct {
	addr     netip.Addr
	lifetime time.Duration
	heard    time.Time
}

// keep is how long it is held for there after it was heard.
func (r *router) keep() time.Duration {
	if r.lifetime == 0 {
		return keepZero
	}
	return r.lifetime
}

func (r *router) until() time.Time { return r.heard.Add(r.keep()) }

// found is what is known of a link. Values are comparable.
type found struct {
	// router is the one on the link and own our address there, both with its name as zone.
	router, own netip.Addr
	// several says that there are several routers.
	several bool
	// why there is no router, in words.
	why string
}

// seeker looks for the router of one link. It has no clock and no socket.
type seeker struct {
	link   string
	own    netip.Addr
	random func() float64

	// routers that were heard, ascending by address.
	routers []router
	current netip.Addr
	several bool
	// contest is when several began to prove that they are there, zero if none do; next is when
	// they must again.
	contest, next time.Time
	// gone says in words which router was there last.
	gone string

	advertised, advertise time.Time
	solicited             time.Time
	solicitations         int
}

func newSeeker(link string, own netip.Addr, random func() float64, now time.Time) *seeker {
	return &seeker{link: link, own: own.WithZone(""), random: random, advertise: now}
}

// found at last.
func (s *seeker) found() found {
	f := found{own: s.own.WithZone(s.link), several: s.several}
	switch {
	case s.current.IsValid():
		f.router = s.current.WithZone(s.link)
	case s.several:
		f.why = fmt.Sprintf("several routers advertise themselves on %s: %s; a session without an address needs a link with one: give peerAddress, or end the others' advertisements", s.link, s.names())
	case s.gone != "":
		f.why = s.gone
	default:
		f.why = fmt.Sprintf("no router advertises itself on %s", s.link)
	}
	return f
}

func (s *seeker) names() string {
	var all []string
	for _, r := range s.candidates() {
		all = append(all, r.addr.String())
	}
	return strings.Join(all, " and ")
}

// hear takes what was received.
func (s *seeker) hear(now time.Time, m ndp.RouterMessage) {
	if m.From == s.own {
		return
	}
	if !m.Advertisement {
		s.answer(now)
		return
	}
	i, known := slices.BinarySearchFunc(s.routers, m.From, func(r router, a netip.Addr) int { return r.addr.Compare(a) })
	switch {
	case known:
		s.routers[i].lifetime, s.routers[i].heard = m.Lifetime, now
	case len(s.routers) < maxRouters:
		s.routers = slices.Insert(s.routers, i, router{m.From, m.Lifetime, now})
		s.answer(now) // it has not heard us yet, as far as we know
	}
}

// answer has an advertisement go soon.
func (s *seeker) answer(now time.Time) {
	at := now.Add(time.Duration(s.random() * float64(answer)))
	if least := s.advertised.Add(spacing); at.Before(least) {
		at = least
	}
	if at.Before(s.advertise) {
		s.advertise = at
	}
}

// candidates are the routers that count: those that anybody may use as a default router, if
// there are such. Those with a lifetime of 0 may be neighbours of the router, as we are.
func (s *seeker) candidates() []router {
	byDefault := func(r router) bool { return r.lifetime > 0 }
	if !slices.ContainsFunc(s.routers, byDefault) {
		return slices.Clone(s.routers)
	}
	return slices.DeleteFunc(slices.Clone(s.routers), func(r router) bool { return !byDefault(r) })
}

// tick does what is due, and says what is to be sent.
func (s *seeker) tick(now time.Time) (advertise, solicit bool) {
	s.settle(now)
	if !now.Before(s.advertise) {
		advertise, s.advertised = true, now
		s.advertise = now.Add(period - time.Duration(s.random()*float64(period/4)))
	}
	if !now.Before(s.soliciting()) {
		solicit, s.solicited = true, now
		s.solicitations++
	}
	return advertise, solicit
}

// settle finds out who is the router.
func (s *seeker) settle(now time.Time) {
	s.routers = slices.DeleteFunc(s.routers, func(r router) bool {
		over := !now.Before(r.until())
		if over && r.addr == s.current {
			s.gone = fmt.Sprintf("router %s on %s is gone: it has not advertised itself for %s", r.addr, s.link, r.keep())
		}
		return over
	})
	c := s.candidates()
	if len(c) > 1 && !s.contest.IsZero() && !now.Before(s.contest.Add(doubt)) {
		began := s.contest
		s.contest, s.next = time.Time{}, now.Add(doubtEvery)
		s.routers = slices.DeleteFunc(s.routers, func(r router) bool { return slices.Contains(c, r) && !r.heard.After(began) })
		c = s.candidates()
		s.several = len(c) > 1
	}
	switch len(c) {
	case 0:
		if s.current.IsValid() {
			s.solicitations = 0 // as from the beginning
			if s.gone == "" {
				s.gone = fmt.Sprintf("router %s on %s is gone: it does not answer", s.current, s.link)
			}
		}
		s.current, s.several, s.contest, s.next = netip.Addr{}, false, time.Time{}, time.Time{}
	case 1:
		s.current, s.several, s.contest, s.next, s.gone = c[0].addr, false, time.Time{}, time.Time{}, ""
	default:
		// Until that is decided, the session goes on with the router that it has.
		if s.several || !slices.ContainsFunc(c, func(r router) bool { return r.addr == s.current }) {
			s.current = netip.Addr{}
		}
		if s.contest.IsZero() && !now.Before(s.next) {
			s.contest = now
		}
	}
}

// soliciting is when the next solicitation is due.
func (s *seeker) soliciting() time.Time {
	rest := insist
	var at time.Time
	switch {
	case !s.contest.IsZero():
		at = s.contest
	case len(s.routers) == 0:
		if s.solicitations >= insistences {
			rest = seek
		}
	default:
		for i := range s.routers {
			if due := s.routers[i].heard.Add(s.routers[i].keep() * 2 / 3); at.IsZero() || due.Before(at) {
				at = due
			}
		}
	}
	if least := s.solicited.Add(rest); at.Before(least) && !s.solicited.IsZero() {
		return least
	}
	return at
}

// due is when there is something to do next.
func (s *seeker) due() time.Time {
	at := s.advertise
	sooner := func(t time.Time) {
		if t.Before(at) {
			at = t
		}
	}
	sooner(s.soliciting())
	for i := range s.routers {
		sooner(s.routers[i].until())
	}
	if !s.contest.IsZero() {
		sooner(s.contest.Add(doubt))
	} else if len(s.candidates()) > 1 {
		sooner(s.next)
	}
	return at
}
