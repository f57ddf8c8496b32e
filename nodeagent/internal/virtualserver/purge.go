// SPDX-License-Identifier: Apache-2.0

package virtualserver

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// expireNodest is the kernel's setting by which it throws away, a tick after a real server
// was deleted, the connections of all real servers that are not there (Linux 5.9 and later;
// before that each goes with its next packet that comes while the setting is on).
const expireNodest = "net/ipv4/vs/expire_nodest_conn"

// purge is what is to be deleted at the end, when all that is wanted is there.
type purge struct {
	servers []loadbalancer.VirtualServerKey
	reals   []doomed
}

type doomed struct {
	server loadbalancer.VirtualServerKey
	real   loadbalancer.RealServerKey
}

// postpone has the next attempt find what this one does not come to delete.
func (s *Servers) postpone() {
	for _, d := range s.purge.reals {
		s.dirty[d.server] = struct{}{}
	}
	for _, key := range s.purge.servers {
		s.dirty[key] = struct{}{}
	}
}

// purgeAll deletes what goes. Real servers, and virtual servers that are not known to be
// TCP's or SCTP's, go with their connections: else packets of a client that never pauses,
// as of UDP, would be dropped for ever, because its connection is kept and its server gone.
func (s *Servers) purgeAll(ctx context.Context, again bool) error {
	expires := len(s.purge.reals) > 0
	for _, key := range s.purge.servers {
		p := cmp.Or(s.have[key].protocol, key.Protocol)
		expires = expires || p != loadbalancer.TCP && p != loadbalancer.SCTP
	}
	var setting error
	if expires {
		// The setting would throw away the connections of virtual servers that somebody
		// deleted and that are about to be repaired: look first.
		if !s.intact() && again {
			s.known = false
			return nil
		}
		setting = s.settings.SetSysctl(expireNodest, "1")
		s.expires = true
	}
	err := s.deleteAll(ctx, again)
	if expires {
		setting = errors.Join(setting, s.stopExpiring())
	}
	return errors.Join(err, setting)
}

// intact says whether a virtual server that loses real servers, or itself, is there.
func (s *Servers) intact() bool {
	var key loadbalancer.VirtualServerKey
	if len(s.purge.reals) > 0 {
		key = s.purge.reals[0].server
	} else {
		key = s.purge.servers[0]
	}
	_, err := s.table.Reals(key)
	return !errors.Is(err, kernel.ErrNotFound)
}

func (s *Servers) deleteAll(ctx context.Context, again bool) error {
	for _, d := range s.purge.reals {
		err := s.step(s.have[d.server], step{verb: expire, RealServer: loadbalancer.RealServer{RealServerKey: d.real}})
		if errors.Is(err, errForeign) && again {
			s.known = false
			continue
		}
		if err != nil {
			s.done(d.server, err)
		}
	}
	for _, key := range s.purge.servers {
		if err := ctx.Err(); err != nil {
			s.postpone()
			return err //nolint:wrapcheck // the caller's own
		}
		err := s.table.DeleteServer(key)
		if err == nil || errors.Is(err, kernel.ErrNotFound) {
			delete(s.have, key)
			err = nil
		}
		s.done(key, err)
	}
	return nil
}

// stopExpiring sets back what purgeAll set, also what an earlier run may have left.
func (s *Servers) stopExpiring() error {
	if !s.expires {
		return nil
	}
	if err := s.settings.SetSysctl(expireNodest, "0"); err != nil {
		return err
	}
	s.expires, s.expired = false, time.Now()
	return nil
}

// startsExpiring says whether somebody else has set what stopExpiring is then to set back.
func (s *Servers) startsExpiring() bool {
	if s.expires {
		return false
	}
	value, err := s.settings.Sysctl(expireNodest)
	s.expires = err == nil && value != "0"
	return s.expires
}
