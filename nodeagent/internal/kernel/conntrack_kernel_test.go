// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package kernel_test

import (
	"context"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Connections without an answer are forgotten at our addresses only, answered ones nowhere.
func TestForgetHalfOpen(t *testing.T) {
	k := open(t)
	nft := func(ctx context.Context, script string) {
		t.Helper()
		cmd := exec.CommandContext(ctx, "nft", "-f", "-")
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("nft: %v\n%s", err, out)
		}
	}
	nft(t.Context(), `table inet half {
		chain in { type filter hook input priority 0; ct state new tcp dport 81 drop; }
		chain out { type nat hook postrouting priority 100; ip daddr 127.0.0.9 snat ip to 127.0.0.10; }
	}`)
	t.Cleanup(func() { nft(context.WithoutCancel(t.Context()), "delete table inet half") })
	const ours, other, masqueraded, six = "127.0.0.7", "127.0.0.8", "127.0.0.9", "::1"
	l, err := net.Listen("tcp", net.JoinHostPort(ours, "0")) //nolint:noctx // loopback
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	whole, err := net.Dial("tcp", l.Addr().String()) //nolint:noctx // loopback
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = whole.Close() })
	d := net.Dialer{Timeout: 200 * time.Millisecond}
	for _, to := range []string{ours, other, masqueraded, six} {
		if c, err := d.DialContext(t.Context(), "tcp", net.JoinHostPort(to, "81")); err == nil {
			_ = c.Close()
			t.Fatalf("%s answers", to)
		}
	}
	for i, want := range []int{2, 0} {
		n, err := k.ForgetHalfOpen([]netip.Addr{netip.MustParseAddr(ours), netip.MustParseAddr(masqueraded), netip.MustParseAddr(six)})
		if err != nil || n != want {
			t.Errorf("round %d: forgot %d, %v; want %d", i, n, err, want)
		}
	}
	if n, err := k.ForgetHalfOpen([]netip.Addr{netip.MustParseAddr(other)}); err != nil || n != 1 {
		t.Errorf("forgot %d, %v at the other address; want 1", n, err)
	}
}
