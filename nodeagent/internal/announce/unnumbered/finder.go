// SPDX-License-Identifier: Apache-2.0

package unnumbered

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/ndp"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

const (
	// look is how often a link is looked at: whether it is there and up, and our address on it.
	look = time.Second
	// maxFrame is an Ethernet frame: advertisements may carry options of any length.
	maxFrame = 1518
	// waiting frames are dropped when there are more.
	waiting = 64
)

// Conn sends and receives frames with router solicitations and advertisements on one link;
// *kernel.NDPConn does.
type Conn interface {
	ReadFrame(b []byte) (int, error)
	WriteFrame(b []byte, to kernel.MAC) error
	Close() error
}

// Links is what is asked of the kernel; *kernel.Kernel answers.
type Links interface {
	// LinkLocal returns a link and our link-local address on it, or says in words what it lacks.
	LinkLocal(name string) (kernel.Link, netip.Addr, error)
}

// Options of a Finder.
type Options struct {
	Links Links
	// Open opens a link.
	Open func(kernel.Link) (Conn, error)
	// Random is uniform in [0,1); nil for math/rand's.
	Random func() float64
}

// Finder finds the routers of some links. Its methods are safe for concurrent use and do not
// block.
type Finder struct {
	options Options
	changed chan struct{}
	wanted  chan struct{}

	mu    sync.Mutex
	want  map[string]struct{} // guarded by mu
	found map[string]found    // guarded by mu; of those that are sought
}

// New makes a finder that seeks nothing.
func New(o Options) *Finder {
	if o.Random == nil {
		o.Random = rand.Float64
	}
	return &Finder{options: o, changed: make(chan struct{}, 1), wanted: make(chan struct{}, 1), found: make(map[string]found)}
}

// Seek makes the links on which a router is sought, and we are to be found, those that are
// named.
func (f *Finder) Seek(links []string) {
	want := make(map[string]struct{}, len(links))
	for _, l := range links {
		want[l] = struct{}{}
	}
	f.mu.Lock()
	f.want = want
	f.mu.Unlock()
	poke(f.wanted)
}

// Found returns the router of a link and our own address there, both with the link as their
// zone. If the router is not valid, why says in words what is missing, and several that there
// is more than one.
func (f *Finder) Found(link string) (router, own netip.Addr, several bool, why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	is, ok := f.found[link]
	if !ok {
		return netip.Addr{}, netip.Addr{}, false, fmt.Sprintf("looks for a router on %s", link)
	}
	return is.router, is.own, is.several, is.why
}

// Changed has a token when an answer of [Finder.Found] has changed. It has one receiver.
func (f *Finder) Changed() <-chan struct{} { return f.changed }

// Run seeks until ctx ends.
func (f *Finder) Run(ctx context.Context) error {
	running := make(map[string]func())
	defer func() {
		for _, end := range running {
			end()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.wanted:
		}
		f.mu.Lock()
		want := f.want
		f.mu.Unlock()
		for name, end := range running {
			if _, ok := want[name]; ok {
				continue
			}
			end()
			delete(running, name)
			f.mu.Lock()
			delete(f.found, name)
			f.mu.Unlock()
		}
		for name := range want {
			if _, ok := running[name]; ok {
				continue
			}
			one, cancel := context.WithCancel(ctx)
			done := make(chan struct{})
			running[name] = func() { cancel(); <-done }
			go func() {
				defer close(done)
				f.follow(one, name)
			}()
		}
	}
}

// follow seeks on one link.
func (f *Finder) follow(ctx context.Context, name string) {
	for ctx.Err() == nil {
		l, own, err := f.options.Links.LinkLocal(name)
		if err == nil {
			err = f.serve(ctx, l, own)
		}
		if err != nil {
			f.tell(ctx, name, found{why: err.Error()})
		}
		t := time.NewTimer(look)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// serve seeks until the link is another, or has another address of ours.
func (f *Finder) serve(ctx context.Context, l kernel.Link, own netip.Addr) (err error) {
	c, err := f.options.Open(l)
	if err != nil {
		return fmt.Errorf("look for a router on %s: %w", l.Name, err)
	}
	heard, broken := make(chan ndp.RouterMessage, waiting), make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { broken <- receive(c, heard) })
	defer wg.Wait()
	defer func() { err = errors.Join(err, c.Close()) }()
	s := newSeeker(l.Name, own, f.options.Random, time.Now())
	check := time.NewTicker(look)
	defer check.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-broken:
			if _, _, gone := f.options.Links.LinkLocal(l.Name); gone != nil {
				return gone //nolint:wrapcheck // says what the link lacks
			}
			return err
		case <-check.C:
			now, at, err := f.options.Links.LinkLocal(l.Name)
			if err != nil {
				return err //nolint:wrapcheck // likewise
			}
			if !now.Equal(l) || at != own {
				return fmt.Errorf("link %s has changed", l.Name)
			}
		case m := <-heard:
			s.hear(time.Now(), m)
		case <-timer.C:
		}
		advertise, solicit := s.tick(time.Now())
		if advertise {
			send(ctx, c, l, ndp.AdvertiseRouter(l.MAC, own.WithZone("")))
		}
		if solicit {
			send(ctx, c, l, ndp.SolicitRouters(l.MAC, own.WithZone("")))
		}
		f.tell(ctx, l.Name, s.found())
		timer.Reset(time.Until(s.due()))
	}
}

// receive passes on what arrives until the connection is closed or the link gone.
func receive(c Conn, heard chan<- ndp.RouterMessage) error {
	var buf [maxFrame]byte
	for {
		n, err := c.ReadFrame(buf[:])
		if err != nil {
			return err //nolint:wrapcheck // says what failed
		}
		m, ok := ndp.ParseRouter(buf[:n])
		if !ok {
			continue
		}
		select {
		case heard <- m:
		default: // of a storm, some are enough
		}
	}
}

func send(ctx context.Context, c Conn, l kernel.Link, frame []byte) {
	if err := c.WriteFrame(frame, kernel.MAC{}); err != nil {
		klog.FromContext(ctx).V(2).Info("Cannot send a router advertisement or solicitation", "link", l.Name, "cause", err.Error())
	}
}

// tell notes what is known of a link.
func (f *Finder) tell(ctx context.Context, name string, is found) {
	f.mu.Lock()
	was, ok := f.found[name]
	f.found[name] = is
	f.mu.Unlock()
	if ok && was == is {
		return
	}
	if logger := klog.FromContext(ctx); is.why != "" {
		logger.Info("A link has no router to speak BGP with", "link", name, "cause", is.why)
	} else {
		logger.Info("A link's router is found", "link", name, "router", is.router.String(), "own", is.own.String())
	}
	poke(f.changed)
}

// poke leaves a token.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
