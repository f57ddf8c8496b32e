// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package kernel_test

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Each transaction is told of, however many changes it has; reading is no change.
func TestWatchNFT(t *testing.T) {
	k := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told, done := make(chan struct{}, 100), make(chan error, 1)
	go func() { done <- k.WatchNFT(ctx, func() { told <- struct{}{} }) }()
	nft := func(script string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "nft", "-f", "-")
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("nft: %v\n%s", err, out)
		}
	}
	await := func(what string) {
		t.Helper()
		timer := time.NewTimer(20 * time.Second)
		defer timer.Stop()
		select {
		case <-told:
		case err := <-done:
			t.Fatalf("the watch ended: %v", err)
		case <-timer.C:
			t.Fatal("not told: " + what)
		}
	}
	generation := func() uint32 {
		t.Helper()
		g, err := k.NFTGeneration()
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	await("the beginning")
	first := generation()
	nft("table inet t { set s { type ipv4_addr; }; }")
	await("a table")
	var b strings.Builder
	for i := range 2000 {
		b.WriteString("add rule inet t c ip saddr 192.0.2.1 tcp dport " + strings.Repeat("1", i%3+1) + " drop\n")
	}
	nft("add chain inet t c\n" + b.String())
	await("many rules")
	last := generation()
	if last != first+2 {
		t.Errorf("generation %d after 2 transactions, was %d", last, first)
	}
	nft("list ruleset")
	if g := generation(); g != last {
		t.Errorf("generation %d after reading, was %d", g, last)
	}
	nft("delete table inet t")
	await("a table that goes")
	if g := generation(); g == last {
		t.Errorf("generation %d as before the table went", g)
	}
	if len(told) > 0 {
		t.Errorf("told %d times too often", len(told))
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("watch: %v", err)
	}
}
