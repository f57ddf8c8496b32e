// SPDX-License-Identifier: Apache-2.0

package virtualserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// flush is how long after it was told to the kernel may still be about to throw connections
// away: it does so from a work queue, one tick later.
const flush = 50 * time.Millisecond

// change makes a virtual server that is there what it should be.
func (s *Servers) change(ctx context.Context, h *server, w loadbalancer.VirtualServer) error {
	h.protocol = s.protocol(w.VirtualServerKey)
	drains := h.protocol == loadbalancer.TCP || h.protocol == loadbalancer.SCTP
	planned := w
	ghosts := s.ghosts[w.VirtualServerKey]
	if drains {
		w.Reals = haunted(w.Reals, ghosts)
	}
	// Its scheduler stays what it is where the kernel does not have the new one.
	refused := s.describe(h, w, drains)
	if errors.Is(refused, errForeign) {
		return refused
	}
	list := steps(orderOf(h.Scheduler), h.reals, w.Reals, drains)
	errs := []error{refused}
	for i, p := range list {
		if p.verb == expire {
			s.purge.reals = append(s.purge.reals, doomed{w.VirtualServerKey, p.RealServerKey})
			continue
		}
		if p.verb == remove {
			if err := s.settled(ctx); err != nil {
				return errors.Join(append(errs, err)...)
			}
		}
		err := s.step(h, p)
		if errors.Is(err, errForeign) {
			return err
		}
		errs = append(errs, err)
		if err != nil && i+1 < len(list) && p.verb == remove {
			break // What comes next would add it.
		}
	}
	s.mark(h, planned, ghosts)
	return errors.Join(errs...)
}

// haunted are the real servers of a plan, and those that come back to drain.
func haunted(list []loadbalancer.RealServer, ghosts []member) []loadbalancer.RealServer {
	if len(ghosts) == 0 {
		return list
	}
	list = slices.Clone(list)
	for _, g := range ghosts {
		if !slices.ContainsFunc(list, func(r loadbalancer.RealServer) bool { return r.RealServerKey == g.RealServerKey }) {
			list = append(list, loadbalancer.RealServer{RealServerKey: g.RealServerKey})
		}
	}
	return list
}

// describe writes scheduler, flags and affinity, if they are not right.
func (s *Servers) describe(h *server, w loadbalancer.VirtualServer, drains bool) error {
	v := bare(w)
	if v.Scheduler == "sh" && rests(h, w, drains) {
		// Else connections that hash to one without weight are refused.
		v.Flags |= loadbalancer.SchedFallback
	}
	if !h.odd && h.Scheduler == v.Scheduler && h.Flags == v.Flags && h.Affinity == v.Affinity {
		return nil
	}
	if err := s.table.UpdateServer(v); err != nil {
		return strange(err, kernel.ErrNotFound)
	}
	h.VirtualServer, h.odd = v, false
	return nil
}

// rests says whether a virtual server will have a real server of weight 0.
func rests(h *server, w loadbalancer.VirtualServer, drains bool) bool {
	if slices.ContainsFunc(w.Reals, func(r loadbalancer.RealServer) bool { return r.Weight == 0 }) {
		return true
	}
	return drains && slices.ContainsFunc(h.reals, func(r member) bool {
		return !slices.ContainsFunc(w.Reals, func(x loadbalancer.RealServer) bool { return x.RealServerKey == r.RealServerKey })
	})
}

// step does one operation in the kernel and in our copy.
func (s *Servers) step(h *server, p step) error {
	at := slices.IndexFunc(h.reals, func(r member) bool { return r.RealServerKey == p.RealServerKey })
	switch p.verb {
	case add:
		if err := s.table.AddReal(h.VirtualServerKey, p.RealServer); err != nil {
			return foreign(err)
		}
		h.reals = append(h.reals, member{RealServer: p.RealServer, aside: p.Weight == 0})
	case update:
		if err := s.table.UpdateReal(h.VirtualServerKey, p.RealServer); err != nil {
			return foreign(err)
		}
		r := &h.reals[at]
		r.RealServer, r.odd = p.RealServer, false
		r.aside = r.aside && p.Weight == 0
	case remove, expire:
		if err := s.table.DeleteReal(h.VirtualServerKey, p.RealServerKey); err != nil {
			return foreign(err)
		}
		h.reals = slices.Delete(h.reals, at, at+1)
		if p.verb == expire && h.Scheduler == "sh" {
			s.dirty[h.VirtualServerKey] = struct{}{} // It may do without the fallback now.
		}
	}
	return nil
}

// foreign marks errors that a real server as we know it does not give.
func foreign(err error) error {
	return strange(strange(err, kernel.ErrExists), kernel.ErrNotFound)
}

// mark notes since when real servers go, and has them asked for connections.
func (s *Servers) mark(h *server, w loadbalancer.VirtualServer, ghosts []member) {
	wanted := make(map[loadbalancer.RealServerKey]struct{}, len(w.Reals))
	for _, r := range w.Reals {
		wanted[r.RealServerKey] = struct{}{}
	}
	for i := range h.reals {
		r := &h.reals[i]
		if _, stays := wanted[r.RealServerKey]; stays {
			r.leaving, r.overdue = time.Time{}, false
			continue
		}
		if r.leaving.IsZero() {
			r.leaving = time.Now()
			for _, g := range ghosts {
				if g.RealServerKey == r.RealServerKey {
					r.leaving = g.leaving
				}
			}
		}
		if !h.draining {
			h.draining = true
			s.draining = append(s.draining, h.VirtualServerKey)
		}
	}
}

// settled waits until the kernel has thrown away what it was told to, so that it does not
// find a real server missing that is only being moved.
func (s *Servers) settled(ctx context.Context) error {
	rest := flush - time.Since(s.expired)
	if s.expired.IsZero() || rest <= 0 {
		return nil
	}
	t := time.NewTimer(rest)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("move a real server: %w", ctx.Err())
	case <-t.C:
		return nil
	}
}
