// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"net/netip"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// resolved is a session as it can be now: one without an address has its router's.
type resolved struct {
	loadbalancer.BGPSession
	// missing says in words why there is no address, "" if there is one. Several says that that
	// is because there are several.
	missing string
	several bool
}

// resolve gives sessions that are named by a link the address of the router that is there,
// and our own.
func (s *Speaker) resolve(specs []loadbalancer.BGPSession) []resolved {
	out := make([]resolved, len(specs))
	var links []string
	for i := range specs {
		out[i].BGPSession = specs[i]
		if specs[i].Interface != "" {
			links = append(links, specs[i].Interface)
		}
	}
	finder := s.options.Routers
	if finder != nil {
		finder.Seek(links)
	}
	for i := range out {
		r := &out[i]
		switch {
		case r.Interface == "":
		case finder == nil:
			r.missing, r.several = "routers cannot be looked for on this node", true
		default:
			var own netip.Addr
			if r.Addr, own, r.several, r.missing = finder.Found(r.Interface); r.missing == "" {
				r.Source = own
			}
		}
	}
	return out
}

// lacks says why a session has no peer.
func (s *session) lacks(r *resolved) {
	s.mu.Lock()
	s.state.State, s.state.Reason, s.state.Message = Idle, reason.NotEstablished, r.missing
	if r.several {
		s.state.State, s.state.Reason = Refused, reason.InvalidPeer
	}
	s.mu.Unlock()
}
