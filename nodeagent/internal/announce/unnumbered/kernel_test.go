// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package unnumbered

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/ndp"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/test/netns"
)

func TestMain(m *testing.M) { os.Exit(netns.Main(m)) }

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %v: %v\n%s", args, err, out)
	}
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline, tick := time.NewTimer(30*time.Second), time.NewTicker(20*time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// Two ends of a link find each other, and lose each other with the reason.
func TestTwoEndsOfALink(t *testing.T) {
	netns.AddVeth(t, "un0", "", "un1", "")
	for _, l := range []string{"un0", "un1"} {
		ip(t, "-6", "addr", "flush", "dev", l)
	}
	k, err := kernel.New()
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	f := New(Options{Links: k, Open: func(l kernel.Link) (Conn, error) { return k.OpenRouters(l) }})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	f.Seek([]string{"un0", "un1", "un9"})
	says := func(link, why string) {
		t.Helper()
		eventually(t, link+": "+why, func() bool {
			_, _, _, got := f.Found(link)
			return got == why
		})
	}
	says("un9", "this node has no link un9")
	says("un0", "link un0 has no IPv6 link-local address")
	ip(t, "addr", "add", "fe80::10/64", "dev", "un0", "nodad")
	says("un0", "no router advertises itself on un0")
	l, own, err := k.LinkLocal("un0")
	if err != nil || own != netip.MustParseAddr("fe80::10%un0") {
		t.Fatalf("%+v, %s: %v", l, own, err)
	}
	ip(t, "addr", "add", "fe80::11/64", "dev", "un1", "nodad")
	found := func(link, router, own string) {
		t.Helper()
		eventually(t, link+" finds "+router, func() bool {
			r, o, several, why := f.Found(link)
			return r.IsValid() && r.String() == router && o.String() == own && !several && why == ""
		})
	}
	found("un0", "fe80::11%un0", "fe80::10%un0")
	found("un1", "fe80::10%un1", "fe80::11%un1")
	ip(t, "link", "set", "un1", "down")
	says("un0", "link un0 is down")
	says("un1", "link un1 is down")
	f.Seek(nil)
	eventually(t, "it is forgotten", func() bool {
		_, _, _, why := f.Found("un0")
		return strings.HasPrefix(why, "looks for")
	})
}

// Of what routers say only that is heard which none has passed on, and neighbours are not
// heard at all.
func TestOnlyHopLimit255IsHeard(t *testing.T) {
	netns.AddVeth(t, "un0", "", "un1", "")
	for link, addr := range map[string]string{"un0": "fe80::10/64", "un1": "fe80::11/64"} {
		ip(t, "-6", "addr", "flush", "dev", link)
		ip(t, "addr", "add", addr, "dev", link, "nodad")
	}
	k, err := kernel.New()
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	open := func(name string) (kernel.Link, *kernel.NDPConn) {
		l, _, err := k.LinkLocal(name)
		if err != nil {
			t.Fatal(err)
		}
		c, err := k.OpenRouters(l)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
		return l, c
	}
	_, here := open("un0")
	l, there := open("un1")
	frames := make(chan []byte, 16)
	go func() {
		defer close(frames)
		for {
			b := make([]byte, maxFrame)
			n, err := here.ReadFrame(b)
			if err != nil {
				return // closed at the end
			}
			frames <- b[:n]
		}
	}()
	far := ndp.AdvertiseRouter(l.MAC, netip.MustParseAddr("fe80::11"))
	far[14+7] = 254
	neighbour := ndp.AdvertiseRouter(l.MAC, netip.MustParseAddr("fe80::11"))
	neighbour[14+40] = 136
	for _, b := range [][]byte{far, neighbour, ndp.SolicitRouters(l.MAC, netip.MustParseAddr("fe80::11"))} {
		if err := there.WriteFrame(b, kernel.MAC{}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "a frame of ours arrives", func() bool {
		b := <-frames
		if b[14+7] != 255 || b[14+40] != 133 && b[14+40] != 134 {
			t.Errorf("heard % x", b)
		}
		m, ok := ndp.ParseRouter(b)
		return ok && !m.Advertisement && m.From == netip.MustParseAddr("fe80::11")
	})
}
