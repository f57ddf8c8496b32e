// SPDX-License-Identifier: Apache-2.0

package routers

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// Place is a network namespace that a router runs in.
type Place interface {
	// Enter moves the calling thread there.
	Enter() error
	// Do calls f on a thread that is there.
	Do(f func() error) error
}

// Config of a router.
type Config struct {
	ASN      uint32
	RouterID netip.Addr
	// MaxPaths of equal cost that are used together.
	MaxPaths int
	// BFD of the neighbours that have it.
	BFD BFD
	// Neighbors that the router accepts sessions of; it also begins them.
	Neighbors []Neighbor
	// Origin are prefixes that the router tells its neighbours, who should not care.
	Origin []netip.Prefix
	// Lines of configuration besides (BIRD only).
	Lines string
}

// BFD is how a router watches its neighbours.
type BFD struct {
	Interval   time.Duration
	Multiplier int
}

// Neighbor of a router.
type Neighbor struct {
	Addr netip.Addr
	ASN  uint32
	// Password of TCP-MD5, "" for none.
	Password string
	BFD      bool
	// GracefulRestart makes the router tell that it restarts so itself. It helps a neighbour
	// that does in any case.
	GracefulRestart bool
	// TTLSecurity wants TTL 255 (RFC 5082), MultiHop allows a neighbour that is far away.
	TTLSecurity, MultiHop bool
	// Passive never begins the session.
	Passive bool
	// Hold time that is offered, 0 for the default of 90 s.
	Hold time.Duration
	// ExtendedNextHop takes IPv4 routes by IPv6 next hops (RFC 8950). BIRD does in any case.
	ExtendedNextHop bool

	// What follows BIRD knows only.

	// Name of the session, "" for n and a number. It tells sessions with the same neighbour
	// apart, who then differ in Local.
	Name string
	// Local is the router's own address and Port its own TCP port; what is not valid, or 0, is
	// left to BIRD. A neighbour that has a Local is waited for, unless the router Connects: to
	// one neighbour it can by one session only.
	Local    netip.Addr
	Port     uint16
	Connects bool
	// LocalASN in place of the router's own, if not 0.
	LocalASN uint32
	// Lines of configuration besides.
	Lines string
}

func (n *Neighbor) hold() time.Duration {
	if n.Hold == 0 {
		return 90 * time.Second
	}
	return n.Hold
}

// Session is what a router says about one neighbour.
type Session struct {
	// Name of it in the configuration: BIRD's, or the link of a neighbour of FRR that has no
	// other.
	Name string
	// Neighbor is where it is, Port its end of the connection: 179 if the router connected to
	// it (FRR only).
	Neighbor    netip.Addr
	Port        int
	ASN         uint32
	Established bool
	// State in the router's own words, LastError what ended the session last.
	State, LastError string
	// RouterID of the neighbour, and the Hold time that both agreed on.
	RouterID netip.Addr
	Hold     time.Duration
	// Prefixes that the router accepted, of both families.
	Prefixes int
	// BFD is "Up" or "Down", or "" without.
	BFD string
	// Dropped is how often an established session ended (FRR only).
	Dropped int
}

// BFDSession is what BIRD says about one neighbour that it watches.
type BFDSession struct {
	Neighbor netip.Addr
	// MultiHop sessions are on no link.
	MultiHop, Up bool
	// Interval in which it sends, and Timeout after which the neighbour is gone: what both ends
	// agreed on.
	Interval, Timeout time.Duration
}

// Path is one neighbour's route to a prefix.
type Path struct {
	// Session by its name in the configuration (BIRD only).
	Session       string
	From, NextHop netip.Addr
	ASPath        []uint32
	LocalPref     uint32
	MED           uint32
	// Communities are of all kinds, as "65000:1", "65000:1:2", "rt:65000:1" and "lb:125000"
	// (bytes per second), ascending. FRR's word for GRACEFUL_SHUTDOWN is "65535:0" here.
	Communities []string
	// Stale paths are kept for a neighbour that restarts (FRR only).
	Stale bool
}

// Router is what both have in common.
type Router interface {
	// Start begins it anew, after Stop too.
	Start(ctx context.Context) error
	// Stop ends it at once, as a crash does.
	Stop() error
	Sessions(ctx context.Context) ([]Session, error)
	Paths(ctx context.Context, prefix netip.Prefix) ([]Path, error)
	// Words is what it says to its operator about a prefix.
	Words(ctx context.Context, prefix netip.Prefix) (string, error)
}

// need names the Debian package of a program that is missing.
func need(program, pkg string) error {
	if _, err := exec.LookPath(program); err != nil {
		return fmt.Errorf("install %s (make deps): %w", pkg, err)
	}
	return nil
}

// SessionOf finds the session with a neighbour.
func SessionOf(ctx context.Context, r Router, neighbor netip.Addr) (Session, error) {
	all, err := r.Sessions(ctx)
	if err != nil {
		return Session{}, err
	}
	for _, s := range all {
		if s.Neighbor == neighbor {
			return s, nil
		}
	}
	return Session{}, fmt.Errorf("no session with %s", neighbor)
}

// WantEstablished fails unless every neighbour's session is.
func WantEstablished(ctx context.Context, r Router, neighbors ...netip.Addr) error {
	var errs []error
	for _, n := range neighbors {
		s, err := SessionOf(ctx, r, n)
		if err == nil && !s.Established {
			err = fmt.Errorf("the session with %s is %s (last error %q)", n, s.State, s.LastError)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// sorted returns the words in order, without repetition.
func sorted(words []string) []string {
	slices.Sort(words)
	return slices.Compact(words)
}

// lines joins what is not empty.
func lines(text ...string) string {
	return strings.Join(slices.DeleteFunc(text, func(s string) bool { return s == "" }), "\n") + "\n"
}

func when(on bool, text string) string {
	if on {
		return text
	}
	return ""
}
