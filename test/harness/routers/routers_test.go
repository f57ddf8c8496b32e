// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package routers

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/netns"
)

func TestMain(m *testing.M) { os.Exit(netns.Main(m)) }

// place is a network namespace by its file.
type place string

func (p place) Enter() error {
	f, err := os.Open(string(p))
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
}

func (p place) Do(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		if err := p.Enter(); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// TestRouters has FRR and BIRD tell each other: what is read of one is what the other says.
func TestRouters(t *testing.T) {
	runtime.LockOSThread() // the other namespace dies with the thread that made it
	const link, far = "r0", "r1"
	frrAddr, birdAddr := netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.2")
	other := netns.NewOther(t)
	netns.AddVeth(t, link, "10.9.0.1/24", far, "")
	other.Take(far)
	other.Run("ip", "link", "set", "lo", "up")
	other.Run("ip", "link", "set", far, "up")
	other.Run("ip", "addr", "add", "10.9.0.2/24", "dev", far)
	// The first thread, which /proc/self speaks of, may be one that went elsewhere later.
	own, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closing(t, own.Close) })
	here, there := place(fmt.Sprintf("/proc/self/fd/%d", own.Fd())), place(other.Path())
	prefix, from := netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24")
	bfd := BFD{Interval: 300 * time.Millisecond, Multiplier: 3}

	frr, err := NewFRR(here, t.TempDir(), "frr", Config{
		ASN: 64512, RouterID: frrAddr, MaxPaths: 4, BFD: bfd, Origin: []netip.Prefix{from},
		Neighbors: []Neighbor{{Addr: birdAddr, ASN: 64513, Password: "secret", BFD: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closing(t, frr.Close) })
	conf := Config{
		ASN: 64513, RouterID: birdAddr, MaxPaths: 4, BFD: bfd, Origin: []netip.Prefix{prefix},
		Neighbors: []Neighbor{{Addr: frrAddr, ASN: 64512, Password: "wrong", BFD: true}},
	}
	bird, err := NewBIRD(there, t.TempDir(), "bird", conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closing(t, bird.Close) })
	capture, err := StartCapture(t.Context(), here, link, t.TempDir()+"/capture")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closing(t, capture.Stop) })
	for _, r := range []Router{frr, bird} {
		if err := r.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := SessionOf(t.Context(), frr, birdAddr); err != nil || s.Established {
		t.Errorf("with a wrong password FRR has %+v, %v", s, err)
	}
	conf.Neighbors[0].Password = "secret"
	if err := bird.Configure(t.Context(), conf); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) error { return WantEstablished(ctx, frr, birdAddr) })
	eventually(t, func(ctx context.Context) error { return WantEstablished(ctx, bird, frrAddr) })
	eventually(t, func(ctx context.Context) error { return wantPath(ctx, frr, prefix, birdAddr, 64513) })
	eventually(t, func(ctx context.Context) error { return wantPath(ctx, bird, from, frrAddr, 64512) })
	for _, r := range []struct {
		Router
		other netip.Addr
	}{{frr, birdAddr}, {bird, frrAddr}} {
		eventually(t, func(ctx context.Context) error {
			s, err := SessionOf(ctx, r, r.other)
			if err == nil && (s.BFD != "Up" || s.Prefixes != 1 || s.RouterID != r.other || s.Hold != 90*time.Second) {
				err = fmt.Errorf("session %+v", s)
			}
			return err
		})
	}
	eventually(t, func(context.Context) error {
		routes, err := Kernel(here)
		if want := []NextHop{{Via: birdAddr, Weight: 1}}; err == nil && !slices.Equal(routes[prefix], want) {
			err = fmt.Errorf("FRR's kernel has %v", routes)
		}
		return err
	})
	eventually(t, func(context.Context) error {
		words, err := capture.Update(prefix.String())
		if err == nil && !strings.Contains(words, "Next Hop") {
			err = fmt.Errorf("no next hop in %s", words)
		}
		return err
	})
	if err := frr.Stop(); err != nil {
		t.Fatal(err)
	}
	if routes, err := Kernel(here); err != nil || len(routes) > 0 {
		t.Errorf("a router that ended left %v, %v", routes, err)
	}
	eventually(t, func(ctx context.Context) error {
		s, err := SessionOf(ctx, bird, frrAddr)
		if err == nil && (s.Established || s.LastError == "") {
			err = fmt.Errorf("session %+v", s)
		}
		return err
	})
}

func wantPath(ctx context.Context, r Router, prefix netip.Prefix, from netip.Addr, asn uint32) error {
	paths, err := r.Paths(ctx, prefix)
	if err != nil {
		return err
	}
	if len(paths) != 1 || paths[0].From != from || paths[0].NextHop != from || !slices.Equal(paths[0].ASPath, []uint32{asn}) {
		return fmt.Errorf("%s by %+v", prefix, paths)
	}
	return nil
}

func eventually(t *testing.T, check func(ctx context.Context) error) {
	t.Helper()
	if _, err := harness.Eventually(t.Context(), 30*time.Second, check); err != nil {
		t.Fatal(err)
	}
}

func closing(t *testing.T, f func() error) {
	t.Helper()
	if err := f(); err != nil {
		t.Error(err)
	}
}
