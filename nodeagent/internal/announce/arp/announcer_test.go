// SPDX-License-Identifier: Apache-2.0

//go:build !kernel

package arp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/l2"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

func eth0() kernel.Link {
	return kernel.Link{Name: "eth0", Index: 2, MAC: kernel.MAC{2, 0, 0, 0, 0, 1}}
}

func peerMAC() kernel.MAC { return kernel.MAC{2, 0, 0, 0, 0, 9} }

func on(link, addr string, epoch uint64) map[plan.Announcement]uint64 {
	return map[plan.Announcement]uint64{{Interface: link, Addr: netip.MustParseAddr(addr)}: epoch}
}

// bench runs an announcer over fake wires inside a synctest bubble.
type bench struct {
	t     *testing.T
	a     *l2.Announcer
	count counts

	mu    sync.Mutex
	wires []*wire // guarded by mu
	fail  error   // guarded by mu
	news  int     // guarded by mu: how often notify was called
}

func (b *bench) notified() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.news++
}

// expectFailed checks what the announcer says of eth0 and how often it said something new.
func (b *bench) expectFailed(want bool, news int) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if got := b.a.Failed("eth0"); got != want || b.news != news {
		b.t.Errorf("failed %t after %d changes, want %t after %d", got, b.news, want, news)
	}
}

func run(t *testing.T, test func(b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t}
		b.a = New(func(kernel.Link) (l2.Conn, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.fail != nil {
				return nil, b.fail
			}
			w := newWire()
			b.wires = append(b.wires, w)
			return w, nil
		}, &b.count, time.Minute, b.notified, func(string, netip.Addr, kernel.MAC) {})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.a.Run(ctx) }()
		test(b)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// opened counts the connections so far.
func (b *bench) opened() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.wires)
}

// last returns the newest connection.
func (b *bench) last() *wire {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.wires[len(b.wires)-1]
}

func (b *bench) failWith(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail = err
}

// ask sends a request for addr and returns the answers.
func (b *bench) ask(addr string) []sent {
	b.t.Helper()
	w := b.last()
	w.frames()
	w.in <- request(peerMAC(), "192.0.2.9", addr)
	synctest.Wait()
	return w.frames()
}

func request(from kernel.MAC, fromIP, forIP string) []byte {
	return marshal(nil, &packet{
		request: true, sender: from, senderIP: netip.MustParseAddr(fromIP),
		targetIP: netip.MustParseAddr(forIP), frameDest: broadcast(),
	})
}

func TestAnswersForAnnouncedAddressesOnly(t *testing.T) {
	t.Parallel()
	run(t, func(b *bench) {
		b.a.Apply([]kernel.Link{eth0()}, on("eth0", "192.0.2.200", 1))
		time.Sleep(5 * time.Second) //nolint:forbidigo // a bubble's clock
		got := b.ask("192.0.2.200")
		want := packet{
			sender: eth0().MAC, senderIP: netip.MustParseAddr("192.0.2.200"),
			target: peerMAC(), targetIP: netip.MustParseAddr("192.0.2.9"), frameDest: peerMAC(),
		}
		if len(got) != 1 || got[0].p != want || got[0].to != peerMAC() {
			b.t.Fatalf("answers %+v, want one: %+v", got, want)
		}
		if got := b.ask("192.0.2.201"); len(got) != 0 {
			b.t.Errorf("answered for a foreign address: %+v", got)
		}
		b.a.Apply([]kernel.Link{eth0()}, nil)
		if got := b.ask("192.0.2.200"); len(got) != 0 {
			b.t.Errorf("answered for a lost address: %+v", got)
		}
		if r, p := b.count.requests.Load(), b.count.replies.Load(); r != 1 || p != 1 {
			b.t.Errorf("counted %d requests and %d replies, want 1 and 1", r, p)
		}
	})
}

func TestAddressOfAnotherLinkIsNotAnswered(t *testing.T) {
	t.Parallel()
	run(t, func(b *bench) {
		b.a.Apply([]kernel.Link{eth0()}, on("eth1", "192.0.2.200", 1))
		synctest.Wait()
		if got := b.ask("192.0.2.200"); len(got) != 0 {
			b.t.Errorf("answered on the wrong link: %+v", got)
		}
	})
}

// burstOf collects the gratuitous frames and when they were sent.
func burstOf(b *bench, start time.Time) (at []time.Duration, requests, replies int) {
	for _, s := range b.last().frames() {
		if s.p.request {
			at = append(at, s.at.Sub(start))
			requests++
		} else {
			replies++
			if s.p.target != s.p.sender {
				b.t.Errorf("a reply that no Linux takes for gratuitous: %+v", s)
			}
		}
		if s.p.senderIP != s.p.targetIP || s.to != broadcast() {
			b.t.Errorf("not gratuitous: %+v", s)
		}
	}
	return at, requests, replies
}

func TestTakeOverSendsOneBurst(t *testing.T) {
	t.Parallel()
	run(t, func(b *bench) {
		start := time.Now()
		b.a.Apply([]kernel.Link{eth0()}, on("eth0", "192.0.2.200", 3))
		for range 20 {
			time.Sleep(500 * time.Millisecond) //nolint:forbidigo // a bubble's clock
			b.a.Apply([]kernel.Link{eth0()}, on("eth0", "192.0.2.200", 3))
		}
		at, requests, replies := burstOf(b, start)
		if diff := cmp.Diff(slices.Compact(protocol{}.Burst()), at); diff != "" || requests != 5 || replies != 5 {
			b.t.Errorf("%d requests and %d replies; times (-want +got):\n%s", requests, replies, diff)
		}
		b.a.Apply([]kernel.Link{eth0()}, on("eth0", "192.0.2.200", 4))
		time.Sleep(5 * time.Second) //nolint:forbidigo // a bubble's clock
		if _, requests, _ := burstOf(b, start); requests != 5 {
			b.t.Errorf("a new epoch sent %d announcements, want 5", requests)
		}
	})
}

// Every minute each address is told again, once however often the link was opened, at a
// time of its own within the interval.
func TestAnnouncementsAreRepeated(t *testing.T) {
	t.Parallel()
	run(t, func(b *bench) {
		want := on("eth0", "192.0.2.200", 3)
		maps.Copy(want, on("eth0", "192.0.2.201", 3))
		b.a.Apply([]kernel.Link{eth0()}, want)
		synctest.Wait()
		_ = b.last().Close()
		time.Sleep(10 * time.Second) //nolint:forbidigo // a bubble's clock
		b.last().frames()
		time.Sleep(90 * time.Second) //nolint:forbidigo // a bubble's clock
		b.last().frames()
		first := map[netip.Addr]time.Time{}
		for range 10 {
			time.Sleep(time.Minute) //nolint:forbidigo // a bubble's clock
			got := b.last().frames()
			if len(got) != 4 {
				b.t.Fatalf("%d frames in a minute, want both forms for each address", len(got))
			}
			for _, s := range got {
				at, seen := first[s.p.senderIP]
				if first[s.p.senderIP] = s.at; seen && s.p.request && s.at.Sub(at) != time.Minute {
					b.t.Errorf("%s is told again after %s", s.p.senderIP, s.at.Sub(at))
				}
			}
		}
		a, c := first[netip.MustParseAddr("192.0.2.200")], first[netip.MustParseAddr("192.0.2.201")]
		if a.Equal(c) {
			b.t.Error("both addresses are told of at once")
		}
	})
}

// Ten thousand addresses taken over at once: the rate is bounded, and each is told once
// before any is told twice.
func TestUnsolicitedFramesAreBounded(t *testing.T) {
	t.Parallel()
	run(t, func(b *bench) {
		const addrs, rate, burst = 10_000, 4000, 500
		want := map[plan.Announcement]uint64{}
		for i := range addrs {
			want[plan.Announcement{Interface: "eth0", Addr: netip.AddrFrom4([4]byte{10, 0, byte(i / 250), byte(i % 250)})}] = 1
		}
		start := time.Now()
		b.a.Apply([]kernel.Link{eth0()}, want)
		time.Sleep(time.Minute / 2) //nolint:forbidigo // a bubble's clock
		got := b.last().frames()
		if len(got) != 2*5*addrs {
			b.t.Errorf("%d frames, want %d", len(got), 2*5*addrs)
		}
		told := map[netip.Addr]int{}
		for i, s := range got {
			if told[s.p.senderIP]++; told[s.p.senderIP] == 2 && len(told) < addrs {
				b.t.Fatalf("%s is told twice when only %d are told", s.p.senderIP, len(told))
			}
			if allowed := burst + 2 + int(s.at.Sub(start).Seconds()*rate); i+1 > allowed {
				b.t.Fatalf("%d frames after %s, allowed %d", i+1, s.at.Sub(start), allowed)
			}
		}
		if took := got[addrs-1].at.Sub(start); took > 2500*time.Millisecond {
			b.t.Errorf("all were told after %s", took)
		}
	})
}

func TestNothingIsSentAfterLoss(t *testing.T) {
	t.Parallel()
	run(t, func(b *bench) {
		b.a.Apply([]kernel.Link{eth0()}, on("eth0", "192.0.2.200", 3))
		time.Sleep(150 * time.Millisecond) //nolint:forbidigo // a bubble's clock
		b.a.Apply([]kernel.Link{eth0()}, nil)
		b.last().frames()
		time.Sleep(10 * time.Second) //nolint:forbidigo // a bubble's clock
		if got := b.last().frames(); len(got) != 0 {
			b.t.Errorf("sent after loss: %+v", got)
		}
	})
}

func TestChangedLinkIsReopenedAndAnnouncedAgain(t *testing.T) {
	t.Parallel()
	run(t, func(b *bench) {
		b.a.Apply([]kernel.Link{eth0()}, on("eth0", "192.0.2.200", 3))
		time.Sleep(5 * time.Second) //nolint:forbidigo // a bubble's clock
		changed := eth0()
		changed.MAC[5] = 7
		b.a.Apply([]kernel.Link{changed}, on("eth0", "192.0.2.200", 3))
		synctest.Wait()
		if n := b.opened(); n != 2 {
			b.t.Fatalf("opened %d connections, want 2", n)
		}
		got := b.last().frames()
		if len(got) != 2 || got[0].p.sender != changed.MAC {
			b.t.Errorf("announced %+v, want both forms from %s", got, changed.MAC)
		}
		if got := b.ask("192.0.2.200"); len(got) != 1 || got[0].p.sender != changed.MAC {
			b.t.Errorf("answers %+v, want one from %s", got, changed.MAC)
		}
	})
}

func TestBrokenConnectionIsOpenedAgain(t *testing.T) {
	t.Parallel()
	run(t, func(b *bench) {
		b.failWith(errors.New("no such device"))
		b.a.Apply([]kernel.Link{eth0()}, on("eth0", "192.0.2.200", 3))
		time.Sleep(3 * time.Second) //nolint:forbidigo // a bubble's clock
		b.expectFailed(true, 1)
		b.failWith(nil)
		time.Sleep(2 * time.Second) //nolint:forbidigo // a bubble's clock
		b.expectFailed(false, 2)
		if n := b.opened(); n != 1 {
			b.t.Fatalf("opened %d connections, want 1", n)
		}
		_ = b.last().Close()
		time.Sleep(2 * time.Second) //nolint:forbidigo // a bubble's clock
		if n := b.opened(); n != 2 {
			b.t.Fatalf("opened %d connections after a failure, want 2", n)
		}
		if got := b.ask("192.0.2.200"); len(got) == 0 {
			b.t.Error("does not answer on the new connection")
		}
	})
}

func TestForeignClaimIsCounted(t *testing.T) {
	t.Parallel()
	run(t, func(b *bench) {
		b.a.Apply([]kernel.Link{eth0()}, on("eth0", "192.0.2.200", 3))
		synctest.Wait()
		b.last().in <- request(peerMAC(), "192.0.2.200", "192.0.2.200")
		b.last().in <- request(eth0().MAC, "192.0.2.200", "192.0.2.200") // our own frame, reflected
		synctest.Wait()
		if got := b.count.conflicts.Load(); got != 1 {
			b.t.Errorf("counted %d conflicts, want 1", got)
		}
	})
}

// A stranger's claim is answered by one announcement every ten seconds at most, and told
// of for a minute; a node's claim is neither.
func TestStrangersAreDefendedAgainst(t *testing.T) {
	t.Parallel()
	run(t, func(b *bench) {
		b.a.Apply([]kernel.Link{eth0()}, on("eth0", "192.0.2.200", 3))
		time.Sleep(5 * time.Second) //nolint:forbidigo // a bubble's clock
		claim := func(from byte) []sent {
			mac := peerMAC()
			mac[5] = from
			b.last().frames()
			b.last().in <- request(mac, "192.0.2.200", "192.0.2.200")
			synctest.Wait()
			return b.last().frames()
		}
		if got := claim(8); len(got) != 0 || len(b.a.Conflicts(time.Now())) != 0 {
			b.t.Errorf("sent %+v before nodes are known", got)
		}
		b.a.SetNodes(map[kernel.MAC]struct{}{eth0().MAC: {}, {2, 0, 0, 0, 0, 7}: {}})
		if got := claim(7); len(got) != 0 || len(b.a.Conflicts(time.Now())) != 0 {
			b.t.Errorf("sent %+v after a node's claim", got)
		}
		if got := claim(8); len(got) != 2 || got[0].p.sender != eth0().MAC || !got[0].p.request {
			b.t.Errorf("the defence is %+v, want both forms of an announcement", got)
		}
		for range 9 {
			time.Sleep(time.Second) //nolint:forbidigo // a bubble's clock
			if got := claim(9); len(got) != 0 {
				b.t.Errorf("sent %+v within ten seconds", got)
			}
		}
		want := "[{{eth0 192.0.2.200} 02:00:00:00:00:08 2000-01-01 00:00:05 +0000 UTC}]"
		if got := fmt.Sprint(b.a.Conflicts(time.Now())); got != want {
			b.t.Errorf("conflicts %s, want %s", got, want)
		}
		time.Sleep(time.Second) //nolint:forbidigo // a bubble's clock
		if got := claim(9); len(got) != 2 {
			b.t.Errorf("the next defence is %+v", got)
		}
		want = "[{{eth0 192.0.2.200} 02:00:00:00:00:09 2000-01-01 00:00:05 +0000 UTC}]"
		time.Sleep(59 * time.Second) //nolint:forbidigo // a bubble's clock
		if got := fmt.Sprint(b.a.Conflicts(time.Now())); got != want {
			b.t.Errorf("conflicts %s, want %s", got, want)
		}
		time.Sleep(time.Second) //nolint:forbidigo // a bubble's clock
		if got := b.a.Conflicts(time.Now()); len(got) != 0 {
			b.t.Errorf("conflicts after a minute: %v", got)
		}
	})
}
