// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package kernel_test

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/test/netns"
)

// What the kernel passes on to a link above is not the link's below: a socket there hears
// it all the same. A macvlan shows it, as a VLAN would, which not every kernel has.
func TestFramesOfLinksAboveAreNotHeard(t *testing.T) {
	k := open(t)
	netns.AddVeth(t, "low0", "192.0.2.1/24", "low1", "")
	netns.AddAddr(t, "low0", "fd00:1::1/64")
	for _, args := range []string{"link add link low0 name above0 address 02:00:00:00:00:aa type macvlan mode bridge", "link set above0 up"} {
		if out, err := exec.CommandContext(t.Context(), "ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", args, err, out)
		}
	}
	low, _ := linkNamed(t, k, "low0")
	far, _ := linkNamed(t, k, "low1")
	if low.Index == 0 || far.Index == 0 {
		t.Fatal("no links")
	}
	mac := kernel.MAC{2, 0, 0, 0, 0, 0xaa}
	t.Run("ARP", func(t *testing.T) {
		conn, err := k.OpenARP(low)
		if err != nil {
			t.Fatal(err)
		}
		sender, err := k.OpenARP(far)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = sender.Close() }()
		first := hearFirst(t, conn.ReadFrame, func() { _ = conn.Close() }, func(to kernel.MAC) {
			if err := sender.WriteFrame(unicastRequest(far.MAC, to), to); err != nil {
				t.Error(err)
			}
		}, mac, low.MAC)
		if first == mac {
			t.Error("the link below hears a request to the link above")
		}
	})
	t.Run("NDP", func(t *testing.T) {
		conn, err := k.OpenNDP(low)
		if err != nil {
			t.Fatal(err)
		}
		sender, err := k.OpenARP(far)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = sender.Close() }()
		first := hearFirst(t, conn.ReadFrame, func() { _ = conn.Close() }, func(to kernel.MAC) {
			if err := sender.WriteFrame(solicitation(far.MAC, to), to); err != nil {
				t.Error(err)
			}
		}, mac, low.MAC)
		if first == mac {
			t.Error("the link below hears a solicitation to the link above")
		}
	})
}

// hearFirst sends to each address, in order, and returns the one that is heard first of.
func hearFirst(t *testing.T, read func([]byte) (int, error), stop func(), send func(to kernel.MAC), to ...kernel.MAC) kernel.MAC {
	t.Helper()
	heard := make(chan kernel.MAC, 1)
	go func() {
		defer close(heard)
		b := make([]byte, 1518)
		for {
			n, err := read(b)
			if err != nil {
				return
			}
			// The kernel's own frames come from other addresses than the test's sender.
			if n >= 14 && b[11] == senderMark {
				heard <- kernel.MAC(b[:6])
				return
			}
		}
	}()
	for _, m := range to {
		send(m)
	}
	timer := time.NewTimer(10 * time.Second)
	defer timer.Stop()
	defer stop()
	select {
	case m, ok := <-heard:
		if !ok {
			t.Fatal("reading failed")
		}
		return m
	case <-timer.C:
		t.Fatal("nothing was heard")
		return kernel.MAC{}
	}
}

// senderMark is the last byte of the address that the test sends from.
const senderMark = 0x5e

func unicastRequest(from, to kernel.MAC) []byte {
	from[5] = senderMark
	b := append(append(append([]byte{}, to[:]...), from[:]...), 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1)
	b = append(append(b, from[:]...), 192, 0, 2, 9)
	b = append(append(b, 0, 0, 0, 0, 0, 0), 192, 0, 2, 200)
	return append(b, make([]byte, 18)...)
}

// solicitation has no right checksum, which no filter looks at.
func solicitation(from, to kernel.MAC) []byte {
	from[5] = senderMark
	b := append(append(append([]byte{}, to[:]...), from[:]...), 0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255)
	b = append(b, 0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9)
	b = append(b, 0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0)
	b = append(b, 135, 0, 0, 0, 0, 0, 0, 0)
	return append(b, 0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0)
}
