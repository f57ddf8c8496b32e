// SPDX-License-Identifier: Apache-2.0

//go:build !kernel

package arp

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"

	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/l2"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// A host that claims every address, from ever new MAC addresses, for as long as it likes
// neither keeps the owner loop busy nor fills the log; what it claimed last is told of.
func TestClaimsOfManyAddressesAreBounded(t *testing.T) {
	t.Parallel()
	const addresses, rounds = 500, 3
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		news := 0
		var last time.Time
		var count counts
		a := New(func(kernel.Link) (l2.Conn, error) { return w, nil }, &count, 0,
			func() { news++; last = time.Now() }, func(string, netip.Addr, kernel.MAC) {})
		logger := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.BufferLogs(true), ktesting.Verbosity(0)))
		ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), logger))
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()
		want := map[plan.Announcement]uint64{}
		for i := range addresses {
			want[plan.Announcement{Interface: "eth0", Addr: address(i)}] = 1
		}
		a.Apply([]kernel.Link{eth0()}, want)
		a.SetNodes(map[kernel.MAC]struct{}{eth0().MAC: {}})
		time.Sleep(30 * time.Second) //nolint:forbidigo // a bubble's clock
		w.frames()
		var lastClaim time.Time
		for round := range rounds {
			for i := range addresses {
				mac := kernel.MAC{2, 1, byte(round), 0, byte(i >> 8), byte(i)}
				w.in <- request(mac, address(i).String(), address(i).String())
				synctest.Wait()
				lastClaim = time.Now()
				time.Sleep(20 * time.Millisecond) //nolint:forbidigo // a bubble's clock
			}
		}
		time.Sleep(5 * time.Second) //nolint:forbidigo // a bubble's clock
		synctest.Wait()
		if news < 50 || news > 70 {
			t.Errorf("%d notices in 30 s, want two a second", news)
		}
		if last.Before(lastClaim) || last.Sub(lastClaim) > time.Second {
			t.Errorf("the last claim was at %s, the last notice at %s", lastClaim, last)
		}
		if got := len(a.Conflicts(time.Now())); got != addresses {
			t.Errorf("%d conflicts, want %d", got, addresses)
		}
		if got := len(w.frames()); got != 2*addresses*rounds {
			t.Errorf("%d frames of defence, want %d", got, 2*addresses*rounds)
		}
		buffer, ok := logger.GetSink().(ktesting.Underlier)
		if !ok {
			t.Fatal("no buffer")
		}
		if got := len(buffer.GetBuffer().Data()); got < 20 || got > 100 {
			t.Errorf("%d lines in the log", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func address(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}) }
