// SPDX-License-Identifier: Apache-2.0

//go:build !kernel

package bgp

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// fakeRouters are Routers that tests steer: one link has a router, or several.
type fakeRouters struct {
	mu          sync.Mutex
	changed     chan struct{}
	sought      []string
	router, own netip.Addr
	several     bool
	why         string
}

func (f *fakeRouters) Seek(links []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sought = links
}

func (f *fakeRouters) Found(string) (router, own netip.Addr, several bool, why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.router, f.own, f.several, f.why
}

func (f *fakeRouters) Changed() <-chan struct{} { return f.changed }

func (f *fakeRouters) set(router string, several bool, why string) {
	f.mu.Lock()
	f.router, f.own, f.several, f.why = netip.Addr{}, netip.MustParseAddr("127.0.0.1"), several, why
	if router != "" {
		f.router = netip.MustParseAddr(router)
	}
	f.mu.Unlock()
	poke(f.changed)
}

// A session without an address begins when its router is found, ends when that is lost, and
// says why; it follows another address.
func TestSessionsWithoutAnAddress(t *testing.T) {
	r := newRouter(t, "127.0.0.2", theirASN, ourASN, nil)
	found := &fakeRouters{changed: make(chan struct{}, 1)}
	found.set("", false, "no router advertises itself on eth1")
	s := begin(t, Options{Routers: found})
	spec := r.spec("r")
	spec.Addr, spec.Source, spec.Interface = netip.Addr{}, netip.Addr{}, "eth1"
	numbered := r.spec("numbered")
	numbered.Addr = netip.MustParseAddr("127.0.0.9") // nobody
	s.Apply(planOf(many(3), numbered, spec), lab)
	says := func(state State, why reason.Reason, address, message string) {
		t.Helper()
		eventually(t, message, func() bool {
			st := stateOf(s, "r")
			return st.State == state && st.Reason == why && st.Address == address && st.Message == message
		})
	}
	says(Idle, reason.NotEstablished, "eth1", "no router advertises itself on eth1")
	found.set("", false, "link eth1 is down")
	says(Idle, reason.NotEstablished, "eth1", "link eth1 is down")
	found.set("127.0.0.2", false, "")
	if st := awaitState(t, s, "r", Established); st.Address != "127.0.0.2" || st.Prefixes != 3 || st.Message != "" {
		t.Errorf("the session is %+v", st)
	}
	found.set("", true, "several")
	says(Refused, reason.InvalidPeer, "eth1", "several")
	eventually(t, "the end is counted", func() bool { return stateOf(s, "r").Flaps == 1 })
	found.set("127.0.0.2", false, "")
	awaitState(t, s, "r", Established)
	found.set("127.0.0.5", false, "")
	eventually(t, "the session follows", func() bool { st := stateOf(s, "r"); return st.Address == "127.0.0.5" && st.State != Established })
	found.mu.Lock()
	if !slices.Equal(found.sought, []string{"eth1"}) {
		t.Errorf("sought on %v", found.sought)
	}
	found.mu.Unlock()
	s.Apply(planOf(nil, numbered), lab)
	eventually(t, "nothing is sought any more", func() bool {
		found.mu.Lock()
		defer found.mu.Unlock()
		return len(found.sought) == 0
	})
	if st := s.States(); len(st) != 1 {
		t.Errorf("there are sessions %+v", st)
	}
}

// A router that has not found us yet hangs up; the next attempt is not connectTime away.
func TestARouterThatHasNotFoundUsYet(t *testing.T) {
	var hungUp atomic.Bool
	peer := newStranger(t, "127.0.0.2", func(c net.Conn) {
		if hungUp.Swap(true) {
			decent(c)
		}
	})
	found := &fakeRouters{changed: make(chan struct{}, 1)}
	found.set("127.0.0.2", false, "")
	s := begin(t, Options{Routers: found})
	spec := peer.spec("r")
	spec.Addr, spec.Interface, spec.Connect = netip.Addr{}, "eth1", time.Hour
	s.Apply(planOf(nil, spec), lab)
	awaitState(t, s, "r", Established)
}

// Whoever cannot look for routers says so.
func TestSessionsWithoutAnAddressAreRefusedWithoutAFinder(t *testing.T) {
	s := begin(t, Options{})
	s.Apply(planOf(nil, loadbalancer.BGPSession{Peer: "r", Interface: "eth1"}), nil)
	if st := awaitState(t, s, "r", Refused); st.Address != "eth1" || st.Message == "" {
		t.Errorf("the session is %+v", st)
	}
}
