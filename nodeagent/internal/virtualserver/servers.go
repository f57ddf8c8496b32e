// SPDX-License-Identifier: Apache-2.0

package virtualserver

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// Table is the kernel's table of virtual servers: [kernel.IPVS].
type Table interface {
	List() ([]kernel.ServerState, error)
	// Reals reads the real servers of one, the last added first.
	Reals(key loadbalancer.VirtualServerKey) ([]kernel.RealState, error)
	AddServer(v loadbalancer.VirtualServer) error
	UpdateServer(v loadbalancer.VirtualServer) error
	DeleteServer(key loadbalancer.VirtualServerKey) error
	AddReal(key loadbalancer.VirtualServerKey, r loadbalancer.RealServer) error
	UpdateReal(key loadbalancer.VirtualServerKey, r loadbalancer.RealServer) error
	DeleteReal(key loadbalancer.VirtualServerKey, r loadbalancer.RealServerKey) error
}

// Settings are the kernel's: [kernel.Kernel].
type Settings interface {
	// Sysctl returns kernel.ErrNotFound for one that this kernel does not have.
	Sysctl(name string) (string, error)
	SetSysctl(name, value string) error
}

// Owned is what shows a virtual server to be ours, beside its mark.
type Owned struct {
	// Addrs are on our link: all virtual servers of theirs are ours.
	Addrs []netip.Addr
	// Keys were served by an earlier run, as its guard table tells: those of node addresses,
	// and those of addresses that did not get onto the link.
	Keys []loadbalancer.VirtualServerKey
}

// Marks of ours: package guard sets no others, and nobody else's are within.
const (
	markMask = 0xfff00000
	markOurs = 0x0fa00000
)

const (
	// deadline after which a real server that goes is taken away with its connections.
	deadline = time.Minute
	// lookups of one Check: so many virtual servers are compared with the kernel's.
	lookups = 32
	// drainsAtOnce bounds how many virtual servers one Check asks for connections.
	drainsAtOnce = 256
	// retryMax bounds the time between attempts at what the kernel refuses.
	retryMax = time.Minute
)

var (
	// ErrNotOurs says that another program has a virtual server at a node's own address.
	ErrNotOurs = errors.New("another program has a virtual server there")
	// errForeign says that the kernel has something else than we left there.
	errForeign = errors.New("changed by another program")
)

// Refusal is a virtual server that is not as it should be, and why.
type Refusal struct {
	Key     loadbalancer.VirtualServerKey
	Service loadbalancer.ServiceKey
	Err     error
	// Serves says that it is there and has a real server with weight.
	Serves bool
}

// Result is how things stand after a call.
type Result struct {
	// Programmed virtual servers of ours are in the kernel.
	Programmed int
	// Draining real servers get no new connections and keep those that they have.
	Draining int
	// Repaired virtual servers were missing or had been altered, in this call.
	Repaired int
	// Expiring: somebody else had the kernel throw away connections whose real server is not
	// there, as kube-proxy in ipvs mode does when it starts; it is to keep them again.
	Expiring bool
	// Refused ascend by key. All others are as they should be.
	Refused []Refusal
}

// Servers are the virtual servers of this node. They are for one goroutine.
type Servers struct {
	table    Table
	settings Settings
	owned    func(context.Context) (Owned, error)

	// applied says that there is a plan: last, and by key want.
	applied bool
	last    loadbalancer.Forwarding
	want    map[loadbalancer.VirtualServerKey]loadbalancer.VirtualServer
	// protocols of marks, by last; nil until somebody asks.
	protocols map[uint32]loadbalancer.Protocol

	// have is our copy of what is ours in the kernel; it is right where known is true.
	have  map[loadbalancer.VirtualServerKey]*server
	known bool
	// tried ones we may have added: the kernel did not say.
	tried map[loadbalancer.VirtualServerKey]struct{}
	// ghosts are real servers that were draining when somebody took them away: they come
	// back without weight, for their connections.
	ghosts map[loadbalancer.VirtualServerKey][]member
	// others are virtual servers that are not ours, as last read.
	others map[loadbalancer.VirtualServerKey]struct{}

	// dirty ones may differ between want and have.
	dirty   map[loadbalancer.VirtualServerKey]struct{}
	refused map[loadbalancer.VirtualServerKey]refusal
	// draining virtual servers have real servers that go, in the order in which to ask.
	draining []loadbalancer.VirtualServerKey
	round    int // of Check's lookups
	repaired int

	purge   purge
	expires bool      // net/ipv4/vs/expire_nodest_conn may not be 0
	expired time.Time // when it last was not
}

type refusal struct {
	err   error
	tries int
	next  time.Time
}

// server is one in the kernel.
type server struct {
	// VirtualServer has no Service and no Reals.
	loadbalancer.VirtualServer
	// odd: to be written again, whatever it seems to be.
	odd bool
	// reals in the order in which the kernel got them.
	reals []member
	// protocol, 0 where it is a mark's that no plan of this run had.
	protocol loadbalancer.Protocol
	// unsure: an operation failed, and may have been done all the same.
	unsure bool
	// draining: it is in the queue.
	draining bool
}

// member is one real server in the kernel.
type member struct {
	loadbalancer.RealServer
	odd bool
	// aside: it had weight 0 from the start, so that the tables of hashing schedulers leave
	// it out. The kernel keeps the place of one whose weight became 0.
	aside bool
	// leaving since when; zero: it stays.
	leaving time.Time
	// overdue: it has had its time.
	overdue bool
}

// New returns the virtual servers of the node whose kernel this is. owned is asked at each
// full reading of the table. Nothing is read or written before the first [Servers.Apply].
func New(table Table, settings Settings, owned func(context.Context) (Owned, error)) *Servers {
	return &Servers{
		table: table, settings: settings, owned: owned,
		want:    make(map[loadbalancer.VirtualServerKey]loadbalancer.VirtualServer),
		have:    make(map[loadbalancer.VirtualServerKey]*server),
		tried:   make(map[loadbalancer.VirtualServerKey]struct{}),
		ghosts:  make(map[loadbalancer.VirtualServerKey][]member),
		others:  make(map[loadbalancer.VirtualServerKey]struct{}),
		dirty:   make(map[loadbalancer.VirtualServerKey]struct{}),
		refused: make(map[loadbalancer.VirtualServerKey]refusal),
		// An earlier run may have died in between.
		expires: true,
	}
}

// Apply makes the kernel's virtual servers those of f, which nobody may change from then on.
// Where the kernel refuses one, the others go on and the result names it; an error means that
// not all was tried. A later call goes on where this one ended. One changed endpoint costs
// some few operations, however many virtual servers there are.
func (s *Servers) Apply(ctx context.Context, f loadbalancer.Forwarding) (Result, error) {
	s.repaired = 0
	s.note(f)
	s.applied = true
	err := s.run(ctx)
	return s.result(), err
}

// Check is to be called each second, and when somebody may have emptied the table. It looks
// for some of our virtual servers in the kernel; if one is missing or altered it reads
// them all and puts them right at once. It takes away real servers that have drained, and
// tries again what was refused.
func (s *Servers) Check(ctx context.Context) (Result, error) {
	s.repaired = 0
	if !s.applied {
		return Result{}, nil
	}
	expiring := s.startsExpiring()
	result, err := s.check(ctx)
	result.Expiring = expiring
	return result, err
}

func (s *Servers) check(ctx context.Context) (Result, error) {
	if s.known {
		if err := s.look(ctx); err != nil {
			return s.result(), err
		}
	}
	if s.known {
		if err := s.drain(ctx); err != nil {
			return s.result(), err
		}
	}
	err := s.run(ctx)
	return s.result(), err
}

// Remove deletes all virtual servers of ours. Their connections go with their addresses.
func (s *Servers) Remove(ctx context.Context) error {
	s.note(loadbalancer.Forwarding{})
	clear(s.refused)
	s.known, s.applied = false, false
	err := s.run(ctx)
	for _, r := range s.result().Refused {
		err = errors.Join(err, r.Err)
	}
	return err
}

// run brings have to want.
func (s *Servers) run(ctx context.Context) error {
	// Not to be able to is no reason to leave the rest undone.
	setting := s.stopExpiring()
	for key, r := range s.refused {
		if !time.Now().Before(r.next) {
			s.dirty[key] = struct{}{}
		}
	}
	// The second time is for a table that somebody else changed under our hands; what is
	// still strange then is refused.
	for _, again := range []bool{true, false} {
		if !s.known {
			if err := s.readAll(ctx); err != nil {
				return errors.Join(setting, err)
			}
		}
		if err := s.settle(ctx, again); err != nil {
			return errors.Join(setting, err)
		}
		if s.known {
			break
		}
	}
	return setting
}

// settle converges what is dirty: first what is wanted, then what goes.
func (s *Servers) settle(ctx context.Context, again bool) error {
	keys := make([]loadbalancer.VirtualServerKey, 0, len(s.dirty))
	for key := range s.dirty {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, compare)
	s.purge = purge{}
	for _, key := range keys {
		if err := ctx.Err(); err != nil {
			s.postpone()
			return err //nolint:wrapcheck // the caller's own
		}
		err := s.converge(ctx, key)
		switch {
		case err != nil && ctx.Err() != nil, errors.Is(err, kernel.ErrNoIPVS):
			s.postpone()
			return err
		case errors.Is(err, errForeign) && again:
			s.known = false
			return nil
		default:
			s.done(key, err)
		}
	}
	return s.purgeAll(ctx, again)
}

// done notes how the attempt at one virtual server ended.
func (s *Servers) done(key loadbalancer.VirtualServerKey, err error) {
	delete(s.dirty, key)
	if err == nil {
		delete(s.refused, key)
		delete(s.ghosts, key)
		return
	}
	if h := s.have[key]; h != nil {
		h.unsure = true
	}
	r := s.refused[key]
	r.err, r.next = err, time.Now().Add(min(time.Second<<r.tries, retryMax))
	r.tries = min(r.tries+1, 10)
	s.refused[key] = r
}

// converge makes one virtual server what it should be, except for what is to be purged.
func (s *Servers) converge(ctx context.Context, key loadbalancer.VirtualServerKey) error {
	w, wanted := s.want[key]
	h := s.have[key]
	if h != nil && h.unsure {
		if err := s.reread(key, h); err != nil {
			return err
		}
		h = s.have[key]
	}
	switch {
	case !wanted && h == nil:
		return nil
	case !wanted:
		s.purge.servers = append(s.purge.servers, key)
		return nil
	case h == nil:
		var err error
		if h, err = s.add(w); err != nil {
			return err
		}
	}
	return s.change(ctx, h, w)
}

// add makes a virtual server without real servers.
func (s *Servers) add(w loadbalancer.VirtualServer) (*server, error) {
	key := w.VirtualServerKey
	if err := s.free(key); err != nil {
		return nil, err
	}
	h := &server{VirtualServer: bare(w)}
	err := s.table.AddServer(h.VirtualServer)
	switch {
	case err == nil:
		s.have[key] = h
		delete(s.tried, key)
		return h, nil
	case errors.Is(err, kernel.ErrExists):
		return nil, strange(err, kernel.ErrExists)
	case !errors.Is(err, kernel.ErrNoScheduler):
		s.tried[key] = struct{}{}
	}
	return nil, err
}

// free says whether the key of a virtual server that is to be added is nobody else's.
func (s *Servers) free(key loadbalancer.VirtualServerKey) error {
	if _, taken := s.others[key]; !taken {
		return nil
	}
	if s.rightful(key.Addr) {
		return errForeign // It was not when we read; reading again makes it ours.
	}
	_, err := s.table.Reals(key)
	if errors.Is(err, kernel.ErrNotFound) {
		delete(s.others, key)
		return nil
	}
	if err != nil {
		return err
	}
	return ErrNotOurs
}

// rightful says whether the plan gives us an address with all of its ports.
func (s *Servers) rightful(a netip.Addr) bool {
	return slices.Contains(s.last.VIPs, a) &&
		!slices.ContainsFunc(s.last.Served, func(v loadbalancer.Served) bool { return v.Foreign && v.Addr == a })
}

// strange marks an error that tells of a change by another program.
func strange(err, sign error) error {
	if errors.Is(err, sign) {
		return errors.Join(errForeign, err)
	}
	return err
}

// bare is what the kernel keeps of a virtual server.
func bare(v loadbalancer.VirtualServer) loadbalancer.VirtualServer {
	v.Service, v.Reals = loadbalancer.ServiceKey{}, nil
	v.Affinity = v.Affinity.Truncate(time.Second)
	return v
}

func (s *Servers) result() Result {
	r := Result{Programmed: len(s.have), Repaired: s.repaired}
	for _, key := range s.draining {
		if h := s.have[key]; h != nil {
			r.Draining += h.leaving()
		}
	}
	for key, f := range s.refused {
		r.Refused = append(r.Refused, Refusal{Key: key, Service: s.want[key].Service, Err: f.err, Serves: s.have[key].serves()})
	}
	slices.SortFunc(r.Refused, func(a, b Refusal) int { return compare(a.Key, b.Key) })
	return r
}

func (h *server) serves() bool {
	return h != nil && slices.ContainsFunc(h.reals, func(r member) bool { return r.Weight > 0 })
}

func (h *server) leaving() int {
	n := 0
	for i := range h.reals {
		if !h.reals[i].leaving.IsZero() {
			n++
		}
	}
	return n
}

// protocol of a virtual server; 0 for a mark that nothing served has any more.
func (s *Servers) protocol(key loadbalancer.VirtualServerKey) loadbalancer.Protocol {
	if key.Mark == 0 {
		return key.Protocol
	}
	if s.protocols == nil {
		s.protocols = make(map[uint32]loadbalancer.Protocol)
		for i := range s.last.Served {
			s.protocols[s.last.Served[i].Mark] = s.last.Served[i].Protocol
		}
	}
	return s.protocols[key.Mark]
}

// compare orders as the plan does.
func compare(a, b loadbalancer.VirtualServerKey) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Mark, b.Mark))
}
