// SPDX-License-Identifier: Apache-2.0

package member

import "testing"

// Of first announcements the loop hears calmly, of everything else at once, of nothing
// new not at all.
func TestWhoIsToldOfAMessage(t *testing.T) {
	t.Parallel()
	var calm, loud int
	l := New(Config{Node: "a", NewClaims: func() { calm++ }}, func() { loud++ })
	claims := func(seq, epoch uint64, groups ...string) message {
		m := message{Node: "b", Boot: 1, Seq: seq}
		for _, g := range groups {
			m.Claims = append(m.Claims, claim{Group: g, Epoch: epoch, Seq: seq})
		}
		return m
	}
	leaving := message{Node: "b", Boot: 1, Seq: 5, Facts: &facts{Seq: 5, Leaving: true}, Claims: []claim{{Group: "y", Epoch: 1, Seq: 5}}}
	full := claims(6, 1, "z")
	full.Full = true
	for _, tt := range []struct {
		name       string
		m          message
		calm, loud int
	}{
		{"first announcements", claims(1, 1, "v", "w"), 1, 0},
		{"the same again", claims(1, 1, "v", "w"), 0, 0},
		{"a takeover", claims(2, 2, "v"), 0, 1},
		{"given up", claims(3, 0, "w"), 0, 1},
		{"a leave", leaving, 0, 1},
		{"everything", full, 0, 1},
	} {
		calm, loud = 0, 0
		b, err := encode(tt.m)
		if err != nil {
			t.Fatal(err)
		}
		l.receive(b)
		if calm != tt.calm || loud != tt.loud {
			t.Errorf("%s: told calmly %d times, at once %d, want %d and %d", tt.name, calm, loud, tt.calm, tt.loud)
		}
	}
	// Without anybody to tell calmly, all are told at once.
	loud = 0
	l = New(Config{Node: "a"}, func() { loud++ })
	b, err := encode(claims(1, 1, "v"))
	if err != nil {
		t.Fatal(err)
	}
	if l.receive(b); loud != 1 {
		t.Errorf("told %d times, want once", loud)
	}
}
