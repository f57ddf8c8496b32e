// SPDX-License-Identifier: Apache-2.0

package virtualserver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// readAll reads the whole table, takes what is ours for our copy, and has all of it
// compared with the plan.
func (s *Servers) readAll(ctx context.Context) error {
	owned, err := s.owned(ctx)
	if err != nil {
		return fmt.Errorf("find out which virtual servers are ours: %w", err)
	}
	states, err := s.table.List()
	if err != nil {
		return err
	}
	ours := s.ours(owned)
	have := make(map[loadbalancer.VirtualServerKey]*server, len(states))
	clear(s.others)
	for i := range states {
		key := states[i].VirtualServerKey
		if !ours(key) {
			s.others[key] = struct{}{}
			continue
		}
		have[key] = adopt(&states[i], s.have[key])
		s.dirty[key] = struct{}{}
	}
	for key, old := range s.have {
		if now := have[key]; !old.unsure && (now == nil || !alike(old, now)) {
			s.repaired++
		}
		if lost := old.lost(have[key]); len(lost) > 0 {
			s.ghosts[key] = lost
		}
	}
	for key := range s.want {
		s.dirty[key] = struct{}{}
	}
	s.have, s.known, s.draining = have, true, nil
	return nil
}

// lost are the draining real servers of a copy that are not in a later one.
func (h *server) lost(now *server) []member {
	var out []member
	for _, r := range h.reals {
		if r.leaving.IsZero() || r.overdue {
			continue
		}
		if now == nil || !slices.ContainsFunc(now.reals, func(x member) bool { return x.RealServerKey == r.RealServerKey }) {
			out = append(out, r)
		}
	}
	return out
}

// ours returns the rule by which virtual servers are ours.
func (s *Servers) ours(owned Owned) func(loadbalancer.VirtualServerKey) bool {
	addrs := make(map[netip.Addr]struct{}, len(owned.Addrs)+len(s.last.VIPs))
	for _, a := range slices.Concat(owned.Addrs, s.last.VIPs) {
		addrs[a] = struct{}{}
	}
	for i := range s.last.Served {
		if s.last.Served[i].Foreign {
			delete(addrs, s.last.Served[i].Addr) // Its other ports are not ours.
		}
	}
	keys := make(map[loadbalancer.VirtualServerKey]struct{}, len(owned.Keys))
	for _, k := range owned.Keys {
		keys[k] = struct{}{}
	}
	return func(key loadbalancer.VirtualServerKey) bool {
		if key.Mark != 0 {
			return key.Mark&markMask == markOurs
		}
		_, address := addrs[key.Addr]
		_, listed := keys[key]
		_, made := s.have[key]
		_, tried := s.tried[key]
		return address || listed || made || tried
	}
}

// adopt takes a virtual server as it is in the kernel, and what only we know of it from our
// earlier copy, if there is one.
func adopt(state *kernel.ServerState, before *server) *server {
	h := &server{VirtualServer: state.VirtualServer, odd: state.Odd, reals: adoptReals(state.Reals, before)}
	h.Service, h.Reals = loadbalancer.ServiceKey{}, nil
	if before != nil {
		h.protocol = before.protocol
	}
	return h
}

func adoptReals(states []kernel.RealState, before *server) []member {
	var known map[loadbalancer.RealServerKey]*member
	if before != nil {
		known = make(map[loadbalancer.RealServerKey]*member, len(before.reals))
		for i := range before.reals {
			known[before.reals[i].RealServerKey] = &before.reals[i]
		}
	}
	out := make([]member, 0, len(states))
	for i := range slices.Backward(states) { // the kernel has the last one first
		r := member{RealServer: states[i].RealServer, odd: states[i].Odd}
		if k := known[r.RealServerKey]; k != nil {
			r.aside, r.leaving, r.overdue = k.aside && r.Weight == 0, k.leaving, k.overdue
		}
		out = append(out, r)
	}
	return out
}

// alike says whether two copies show the same in the kernel.
func alike(a, b *server) bool {
	return a.odd == b.odd && a.Scheduler == b.Scheduler && a.Flags == b.Flags && a.Affinity == b.Affinity && slices.EqualFunc(a.reals, b.reals, alikeReals)
}

func alikeReals(a, b member) bool { return a.RealServer == b.RealServer && a.odd == b.odd }

// reread reads one virtual server of which we are not sure.
func (s *Servers) reread(key loadbalancer.VirtualServerKey, h *server) error {
	states, err := s.table.Reals(key)
	if errors.Is(err, kernel.ErrNotFound) {
		delete(s.have, key)
		return nil
	}
	if err != nil {
		return err
	}
	h.reals, h.odd, h.unsure = adoptReals(states, h), true, false
	return nil
}

// look compares some virtual servers with the kernel's, evenly spaced, so that each range
// of addresses is among them, and each time the next ones. What it does not find as we left
// it makes our copy unknown.
func (s *Servers) look(ctx context.Context) error {
	list := s.last.VirtualServers
	stride := max(1, (len(list)+lookups-1)/lookups)
	s.round = (s.round + 1) % stride
	for i := s.round; i < len(list); i += stride {
		if err := ctx.Err(); err != nil {
			return err //nolint:wrapcheck // the caller's own
		}
		key := list[i].VirtualServerKey
		h := s.have[key]
		if h == nil || h.unsure {
			continue // It was refused, and is tried again in its time.
		}
		states, err := s.table.Reals(key)
		switch {
		case errors.Is(err, kernel.ErrNotFound):
			s.known = false
			return nil
		case err != nil:
			return err
		case !slices.EqualFunc(h.reals, adoptReals(states, h), alikeReals):
			s.known = false
			return nil
		}
	}
	return nil
}

// drain takes away real servers that go and have no connections any more, and notes those
// that have had their time.
func (s *Servers) drain(ctx context.Context) error {
	batch := s.draining[:min(len(s.draining), drainsAtOnce)]
	s.draining = slices.Clone(s.draining[len(batch):])
	for i, key := range batch {
		if err := ctx.Err(); err != nil {
			s.draining = append(s.draining, batch[i:]...)
			return err //nolint:wrapcheck // the caller's own
		}
		h := s.have[key]
		if h == nil {
			continue
		}
		err := s.drainServer(h)
		if errors.Is(err, errForeign) {
			s.known = false // Reading all queues them anew.
			return nil
		}
		if err != nil {
			s.done(key, err)
		}
		h.draining = h.leaving() > 0
		if h.draining {
			s.draining = append(s.draining, key)
		}
	}
	return nil
}

func (s *Servers) drainServer(h *server) error {
	if h.unsure || h.leaving() == 0 {
		return nil
	}
	states, err := s.table.Reals(h.VirtualServerKey)
	if err != nil {
		return strange(err, kernel.ErrNotFound)
	}
	busy := make(map[loadbalancer.RealServerKey]bool, len(states))
	for i := range states {
		busy[states[i].RealServerKey] = states[i].Active > 0 || states[i].Inactive > 0
	}
	for _, r := range slices.Clone(h.reals) {
		if r.leaving.IsZero() {
			continue
		}
		switch has, there := busy[r.RealServerKey]; {
		case !there:
			return errForeign
		case !has:
			if err := s.step(h, step{expire, r.RealServer}); err != nil {
				return err
			}
		case time.Since(r.leaving) >= deadline:
			at := slices.IndexFunc(h.reals, func(x member) bool { return x.RealServerKey == r.RealServerKey })
			h.reals[at].overdue = true
			s.dirty[h.VirtualServerKey] = struct{}{}
		}
	}
	return nil
}
