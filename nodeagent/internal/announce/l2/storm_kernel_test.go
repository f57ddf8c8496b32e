// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package l2_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/test/netns"
)

const (
	// stormRate is the hostile frames per second, stormTime how long they come.
	stormRate = 50000
	stormTime = 3 * time.Second
)

// arpFrame is a request from mac and source for target.
func arpFrame(mac kernel.MAC, source, target string) []byte {
	s, t := netip.MustParseAddr(source).As4(), netip.MustParseAddr(target).As4()
	b := append([]byte{255, 255, 255, 255, 255, 255}, mac[:]...)
	b = append(append(b, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1), mac[:]...)
	b = append(append(append(b, s[:]...), 0, 0, 0, 0, 0, 0), t[:]...)
	return append(b, make([]byte, 18)...)
}

// ndpFrame is a solicitation from mac and source for target in target's group.
func ndpFrame(mac kernel.MAC, source, target string) []byte {
	s, t := netip.MustParseAddr(source).As16(), netip.MustParseAddr(target).As16()
	g := kernel.SolicitedNode(netip.MustParseAddr(target)).As16()
	b := append([]byte{0x33, 0x33, g[12], g[13], g[14], g[15]}, mac[:]...)
	b = append(append(append(b, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255), s[:]...), g[:]...)
	b = append(append(b, 135, 0, 0, 0, 0, 0, 0, 0), t[:]...)
	b = append(append(b, 1, 1), mac[:]...)
	sum := uint32(32 + 58)
	for i := 22; i < len(b); i += 2 {
		sum += uint32(b[i])<<8 + uint32(b[i+1])
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(b[56:], ^uint16(sum))
	return b
}

// storm is what is sent over and over: requests for others, and all that is broken.
func storm(mac kernel.MAC) [][]byte {
	var out [][]byte
	change := func(b []byte, at int, v ...byte) {
		b = slices.Clone(b)
		copy(b[at:], v)
		out = append(out, b)
	}
	a, n := arpFrame(mac, "192.0.2.66", "192.0.2.67"), ndpFrame(mac, "fd00:1::66", vip6)
	out = append(out, a, ndpFrame(mac, "fd00:1::66", "fd00:1::1:200"), a[:20], n[:70], append(slices.Clone(n), make([]byte, 1300)...))
	change(a, 18, 255)                     // length of a hardware address
	change(a, 20, 0, 3)                    // RARP
	change(a, 28, 0, 0, 0, 0)              // a probe for what is not ours
	change(a, 22, 255, 255, 255, 255, 255) // from all
	change(n, 21, 64)                      // routed
	change(n, 56, 0xde, 0xad)              // checksum
	change(n, 79, 0)                       // option of length 0
	change(n, 18, 0xff, 0xff)              // payload longer than the frame
	tagged := append(append(slices.Clone(a[:12]), 0x81, 0, 0, 5), a[12:]...)
	return append(out, tagged)
}

// A storm of hostile frames takes no memory, and answers stay quick. The client measures
// by a packet socket of its own, in this process: the figures hold its delays too.
func TestStorm(t *testing.T) {
	b := newBed(t, "lb0")
	netns.AddVeth(t, "lb0", "", "host0", "")
	b.await("the link announces", func() bool { return b.arp.Answers("lb0", netip.MustParseAddr(vip4)) })
	b.await("the link announces IPv6", func() bool { return b.ndp.Answers("lb0", netip.MustParseAddr(vip6)) })
	var host kernel.Link
	links, err := b.k.Links()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Name == "host0" {
			host = l
		}
	}
	client, err := b.k.OpenARP(host)
	if err != nil {
		t.Fatal(err)
	}
	attacker, err := b.k.OpenARP(host)
	if err != nil {
		t.Fatal(err)
	}
	p := &prober{t: t, conn: client, mac: host.MAC, done: make(chan struct{}), answers: make(chan time.Time, 1000)}
	go p.read()
	defer func() { _ = client.Close(); _ = attacker.Close(); <-p.done }()

	calm := p.ask(100)
	frames := storm(kernel.MAC{2, 0, 0, 0, 0, 0x66})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	stop := make(chan struct{})
	sent := make(chan int)
	go func() { sent <- blow(attacker, frames, stop) }()
	stormy := p.ask(int(stormTime / probeEvery))
	close(stop)
	total := <-sent
	runtime.GC()
	runtime.ReadMemStats(&after)
	t.Logf("answers in calm: %s; in a storm of %d frames in %s: %s; heap %d KiB more, %d allocations",
		calm, total, stormTime, stormy, (int64(after.HeapAlloc)-int64(before.HeapAlloc))>>10, after.Mallocs-before.Mallocs)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
	if n := after.Mallocs - before.Mallocs; n > uint64(total)/10 {
		t.Errorf("%d allocations for %d frames", n, total)
	}
	// On an idle machine the median is a fraction of a millisecond; a busy one gets more, and
	// the hundred answers before the storm tell how busy it is.
	if stormy.lost > 2+3*calm.lost || stormy.median > max(50*time.Millisecond, 20*calm.median) {
		t.Errorf("in a storm: %s", stormy)
	}
	if got := p.ask(10); got.lost > 0 {
		t.Errorf("after the storm: %s", got)
	}
	if n := b.four.conflicts.Load() + b.six.conflicts.Load(); n != 0 {
		t.Errorf("%d conflicts", n)
	}
}

// blow sends the frames in turn at stormRate until stop, and returns how many.
func blow(conn *kernel.ARPConn, frames [][]byte, stop <-chan struct{}) int {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	total, begin := 0, time.Now()
	for {
		select {
		case <-stop:
			return total
		case <-tick.C:
		}
		// A ticker drops ticks; the rate is kept all the same, within reason.
		due := min(int(time.Since(begin).Seconds()*stormRate)-total, stormRate/20)
		for range due {
			if conn.WriteFrame(frames[total%len(frames)], kernel.MAC{}) == nil {
				total++
			}
		}
	}
}

// probeEvery is how often the prober asks.
const probeEvery = 10 * time.Millisecond

// prober asks for vip4 and notes when answers come.
type prober struct {
	t       *testing.T
	conn    *kernel.ARPConn
	mac     kernel.MAC
	answers chan time.Time
	done    chan struct{}
}

func (p *prober) read() {
	defer close(p.done)
	want := netip.MustParseAddr(vip4).As4()
	buf := make([]byte, 64)
	for {
		n, err := p.conn.ReadFrame(buf)
		if err != nil {
			return
		}
		if n >= 42 && buf[21] == 2 && [4]byte(buf[28:32]) == want && kernel.MAC(buf[:6]) == p.mac {
			select {
			case p.answers <- time.Now():
			default:
			}
		}
	}
}

// latencies of a number of questions.
type latencies struct {
	asked, lost      int
	median, p99, max time.Duration
}

func (l latencies) String() string {
	return fmt.Sprintf("%d of %d, median %s, p99 %s, max %s", l.asked-l.lost, l.asked, l.median, l.p99, l.max)
}

// ask asks n times, once every probeEvery, and waits for each answer for a second at most.
func (p *prober) ask(n int) latencies {
	p.t.Helper()
	f := arpFrame(p.mac, "192.0.2.9", vip4)
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	took := make([]time.Duration, 0, n)
	for range n {
		<-tick.C
		for len(p.answers) > 0 {
			<-p.answers
		}
		begin := time.Now()
		if err := p.conn.WriteFrame(f, kernel.MAC{}); err != nil {
			p.t.Error(err)
		}
		timer.Reset(time.Second)
		select {
		case at := <-p.answers:
			took = append(took, at.Sub(begin))
		case <-timer.C:
		}
	}
	out := latencies{asked: n, lost: n - len(took)}
	if slices.Sort(took); len(took) > 0 {
		out.median, out.p99, out.max = took[len(took)/2], took[len(took)*99/100], took[len(took)-1]
	}
	return out
}
