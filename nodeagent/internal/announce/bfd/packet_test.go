// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"bytes"
	"slices"
	"testing"

	wire "github.com/osrg/gobgp/v4/pkg/packet/bfd"
)

// good is what a router sends in Up.
func good() []byte {
	return []byte{
		0x20, 0xc0, 3, 24, 0, 0, 0, theirs, 0, 0, 0, ours,
		0, 4, 0x93, 0xe0, 0, 4, 0x93, 0xe0, 0, 0, 0, 0,
	}
}

// RFC 5880 §6.8.6, in its order.
func TestParse(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(b []byte) []byte
		cause  Cause
		ok     bool
	}{
		{"good", func(b []byte) []byte { return b }, 0, true},
		{"version 0", func(b []byte) []byte { b[0] = 0; return b }, Malformed, false},
		{"version 2", func(b []byte) []byte { b[0] = 0x40; return b }, Malformed, false},
		{"nothing", func([]byte) []byte { return nil }, Malformed, false},
		{"23 octets", func(b []byte) []byte { return b[:23] }, Malformed, false},
		{"length 23", func(b []byte) []byte { b[3] = 23; return b }, Malformed, false},
		{"length 0", func(b []byte) []byte { b[3] = 0; return b }, Malformed, false},
		{"length beyond the payload", func(b []byte) []byte { b[3] = 25; return b }, Malformed, false},
		{"payload beyond the length", func(b []byte) []byte { return append(b, make([]byte, 200)...) }, 0, true},
		{"A with length 24", func(b []byte) []byte { b[1] |= 4; return b }, Malformed, false},
		{"A", func(b []byte) []byte { b[1] |= 4; b[3] = 26; return append(b, 1, 2) }, Authenticated, false},
		{"multiplier 0", func(b []byte) []byte { b[2] = 0; return b }, Malformed, false},
		{"multipoint", func(b []byte) []byte { b[1] |= 1; return b }, Malformed, false},
		{"my discriminator 0", func(b []byte) []byte { b[7] = 0; return b }, Malformed, false},
		{"your discriminator 0 in Up", func(b []byte) []byte { b[11] = 0; return b }, Discriminator, false},
		{"your discriminator 0 in Init", func(b []byte) []byte { b[1], b[11] = 0x80, 0; return b }, Discriminator, false},
		{"your discriminator 0 in Down", func(b []byte) []byte { b[1], b[11] = 0x40, 0; return b }, 0, true},
		{"your discriminator 0 in AdminDown", func(b []byte) []byte { b[1], b[11] = 0, 0; return b }, 0, true},
		{"P and F", func(b []byte) []byte { b[1] |= 0x30; return b }, Malformed, false},
		{"demand, which is ignored", func(b []byte) []byte { b[1] |= 2; return b }, 0, true},
		{"control plane independent", func(b []byte) []byte { b[1] |= 8; return b }, 0, true},
	}
	for _, tt := range tests {
		_, cause, ok := parse(tt.change(good()))
		if ok != tt.ok || !ok && cause != tt.cause {
			t.Errorf("%s: %t, %v; want %t, %v", tt.name, ok, cause, tt.ok, tt.cause)
		}
	}
}

// Whatever comes, what is let through keeps the rules, and says the same when it is written.
func FuzzParse(f *testing.F) {
	f.Add(good())
	f.Add(append(good(), 1, 2, 3))
	f.Add([]byte{0x20, 0x44, 3, 26, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		h, cause, ok := parse(b)
		if !bytes.Equal(before, b) {
			t.Fatal("it writes into what it reads")
		}
		if !ok {
			if cause >= causes {
				t.Fatalf("%v", cause)
			}
			return
		}
		if h.MyDiscriminator == 0 || h.DetectTimeMultiplier == 0 || h.Version != version || h.State > wire.StateUp || h.Poll && h.Final {
			t.Fatalf("lets through %+v", h)
		}
		out, err := h.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		// But for the flags and the echo interval, which are not ours to say.
		want := slices.Clone(b[:minLength])
		want[1] &= 0xf0
		want[3] = minLength
		copy(want[20:], []byte{0, 0, 0, 0})
		if !bytes.Equal(want, out) {
			t.Fatalf("read %x, wrote %x", want, out)
		}
	})
}

func TestWords(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	var d Drops
	d[TTL] = 7
	d.Each(func(cause string, n uint64) {
		if seen[cause] || (cause == "ttl") != (n == 7) {
			t.Errorf("%q: %d", cause, n)
		}
		seen[cause] = true
	})
	if len(seen) != int(causes) {
		t.Errorf("%v", seen)
	}
	if got := diagWord(wire.DiagnosticControlDetectionTimeExpired); got != "control detection time expired" {
		t.Error(got)
	}
	if got := diagWord(17); got != "diagnostic 17" {
		t.Error(got)
	}
	for s, want := range map[wire.StateType]string{0: "AdminDown", 1: "Down", 2: "Init", 3: "Up"} {
		if got := stateWord(s); got != want {
			t.Errorf("%d is %q", s, got)
		}
	}
}
