// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package kernel_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/netns"
)

// A node that speaks BGP has more changes of routes than the kernel keeps for a reader
// that is busy. That says nothing about links: none of them lapsed, or each would be told
// of anew with all of its addresses, whenever routes change. Changes are told of again soon.
func TestRoutesThatOverflowAreNoLapse(t *testing.T) {
	k := open(t)
	netns.AddVeth(t, "rt0", "192.0.2.1/24", "rt1", "")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	busy, heard := make(chan struct{}), make(chan struct{}, 1)
	done := make(chan error, 1)
	go func() {
		done <- k.Watch(ctx, func() {
			select {
			case heard <- struct{}{}:
			default:
			}
			<-busy
		})
	}()
	await := func(what string) {
		t.Helper()
		timer := time.NewTimer(20 * time.Second)
		defer timer.Stop()
		select {
		case <-heard:
		case <-timer.C:
			t.Fatal("not told: " + what)
		}
	}
	await("the beginning")
	before, _ := linkNamed(t, k, "rt0")
	batch(t, 20000)
	close(busy)
	await("what went untold")
	timer := time.NewTimer(3 * time.Second)
	defer timer.Stop()
	select {
	case err := <-done:
		t.Fatalf("the watch ended: %v", err)
	case <-timer.C:
	}
	if after, ok := linkNamed(t, k, "rt0"); !ok || after.Lapses != before.Lapses {
		t.Errorf("lapses %d, want %d", after.Lapses, before.Lapses)
	}
	for len(heard) > 0 {
		<-heard
	}
	netns.AddRouteVia(t, "rt0", "0.0.0.0/0", 100, "192.0.2.2")
	await("a default route after the overflow")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("watch: %v", err)
	}
}

// batch adds routes as quickly as the kernel takes them.
func batch(t *testing.T, n int) {
	t.Helper()
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "route add 10.%d.%d.%d/30 via 192.0.2.2 dev rt0\n", i>>14, i>>6&255, i<<2&255)
	}
	ipBatch(t, b.String())
}

func ipBatch(t *testing.T, commands string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "batch")
	if err := os.WriteFile(file, []byte(commands), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "ip", "-batch", file).CombinedOutput(); err != nil {
		t.Fatalf("ip -batch: %v\n%s", err, out)
	}
}

// A node that starts a hundred pods at once has more changes of links than the default
// buffer takes while the reader is busy.
func TestManyLinksAreNoLapse(t *testing.T) {
	k := open(t)
	netns.AddVeth(t, "ln0", "192.0.2.1/24", "ln1", "")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	busy, heard := make(chan struct{}), make(chan struct{}, 1)
	done := make(chan error, 1)
	go func() {
		done <- k.Watch(ctx, func() {
			select {
			case heard <- struct{}{}:
			default:
			}
			<-busy
		})
	}()
	<-heard
	before, _ := linkNamed(t, k, "ln0")
	var add, remove strings.Builder
	for i := range 100 {
		fmt.Fprintf(&add, "link add pod%d up type veth peer name eth%d\n", i, i+100)
		fmt.Fprintf(&remove, "link del pod%d\n", i)
	}
	ipBatch(t, add.String())
	ipBatch(t, remove.String())
	close(busy)
	timer := time.NewTimer(2 * time.Second)
	defer timer.Stop()
	select {
	case err := <-done:
		t.Fatalf("the watch ended: %v", err)
	case <-timer.C:
	}
	if after, ok := linkNamed(t, k, "ln0"); !ok || after.Lapses != before.Lapses {
		t.Errorf("lapses %d, want %d", after.Lapses, before.Lapses)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("watch: %v", err)
	}
}
