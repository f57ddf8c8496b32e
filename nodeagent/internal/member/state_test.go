// SPDX-License-Identifier: Apache-2.0

//go:build !kernel

package member

import (
	"maps"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

func newOwn(boot uint64) *own {
	return &own{node: "a", boot: boot, claims: map[loadbalancer.Group]claim{}}
}

func newPeer() *peer { return &peer{claims: map[loadbalancer.Group]claim{}} }

func drawState(t *rapid.T) State {
	s := State{Leaving: rapid.Bool().Draw(t, "leaving"), Claims: map[loadbalancer.Group]uint64{}}
	for _, g := range rapid.SliceOfN(rapid.SampledFrom([]string{"g1", "g2", "g3", "g4"}), 0, 4).Draw(t, "groups") {
		s.Claims[loadbalancer.Group(g)] = rapid.Uint64Range(1, 9).Draw(t, "epoch")
	}
	if rapid.Bool().Draw(t, "interface") {
		s.Interfaces = []loadbalancer.Interface{{Name: "eth0", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}}}
		s.Interfaces[0].MAC[5] = rapid.Byte().Draw(t, "mac")
		s.Interfaces[0].NoIPv6 = rapid.Bool().Draw(t, "noIPv6")
	}
	if rapid.Bool().Draw(t, "gateway") {
		s.Gateways = []netip.Addr{netip.MustParseAddr("192.0.2.254")}
	}
	return s
}

// However the messages of a node's changes are ordered, repeated or split, and even if
// some are lost before a full one, a peer ends with the node's last state.
func TestPeersConverge(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		o := newOwn(1)
		var msgs []message
		var last State
		if rapid.Bool().Draw(t, "rebooted") {
			m, _ := o.update(drawState(t))
			msgs = append(msgs, m, o.full())
			o = newOwn(2)
		}
		for range rapid.IntRange(1, 6).Draw(t, "changes") {
			last = drawState(t)
			if m, changed := o.update(last); changed {
				for _, part := range split(m) {
					if !rapid.Bool().Draw(t, "lost") {
						msgs = append(msgs, part)
					}
				}
			}
			if rapid.Bool().Draw(t, "exchange") {
				msgs = append(msgs, o.full())
			}
		}
		msgs = append(msgs, o.full())
		msgs = append(msgs, rapid.SliceOfN(rapid.SampledFrom(msgs), 0, 3).Draw(t, "again")...)
		p := newPeer()
		for _, m := range rapid.Permutation(msgs).Draw(t, "order") {
			b, err := encode(m)
			if err != nil {
				t.Fatal(err)
			}
			if m, err = decode(b); err != nil {
				t.Fatal(err)
			}
			p.merge(m)
		}
		got := State{Leaving: p.facts.Leaving, Interfaces: p.facts.interfaces(), Gateways: p.facts.Gateways, Claims: p.live()}
		if diff := cmp.Diff(last, got, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
			t.Fatalf("after %d messages (-want +got):\n%s", len(msgs), diff)
		}
	})
}

// A machine without a clock of its own comes back from a power cut with an earlier time.
func TestRunOfAnEarlierClock(t *testing.T) {
	t.Parallel()
	say := func(o *own, epoch uint64) message {
		m, _ := o.update(State{Claims: map[loadbalancer.Group]uint64{"g": epoch}})
		return m
	}
	first, second := newOwn(9), newOwn(5)
	p := newPeer()
	p.merge(say(first, 1))
	straggler := say(first, 2)
	say(second, 3)
	if p.merge(second.full()); p.live()["g"] != 1 {
		t.Error("a message of an earlier run counts although the node was never away")
	}
	l := &Layer{joins: map[loadbalancer.NodeName]uint64{}, gone: map[loadbalancer.NodeName]time.Time{}, peers: map[loadbalancer.NodeName]*peer{"a": p}}
	l.joinedLocked("a")
	p.merge(second.full())
	p.merge(straggler)
	p.merge(first.full())
	if got := p.live()["g"]; got != 3 {
		t.Errorf("after the return the epoch is %d, want 3", got)
	}
	if p.merge(say(second, 4)); p.live()["g"] != 4 {
		t.Error("what it says later does not count")
	}
	if p.merge(say(newOwn(10), 7)); p.live()["g"] != 7 {
		t.Error("a later run does not count")
	}
}

func TestUpdateWithoutChangeSaysNothing(t *testing.T) {
	t.Parallel()
	o := newOwn(1)
	s := State{Claims: map[loadbalancer.Group]uint64{"g": 1}}
	if _, changed := o.update(s); !changed {
		t.Error("the first state is no change")
	}
	if m, changed := o.update(State{Claims: maps.Clone(s.Claims)}); changed {
		t.Errorf("the same state is a change: %+v", m)
	}
}

func TestChangesFitAPacket(t *testing.T) {
	t.Parallel()
	s := State{Claims: map[loadbalancer.Group]uint64{}}
	for i := range bulk {
		a := netip.AddrFrom16([16]byte{0xfd, 15: byte(i)})
		s.Claims[loadbalancer.Group(a.StringExpanded())] = 1 << 40
	}
	m, _ := newOwn(1 << 62).update(s)
	total := 0
	for _, part := range split(m) {
		b, err := encode(part)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > 1200 {
			t.Errorf("message of %d bytes, want at most 1200", len(b))
		}
		total += len(part.Claims)
	}
	if total != bulk {
		t.Errorf("split into %d claims, want %d", total, bulk)
	}
}

func TestDecodeRejects(t *testing.T) {
	t.Parallel()
	for name, in := range map[string]string{
		"no json":   "x",
		"no node":   `{"b":1}`,
		"no boot":   `{"n":"a"}`,
		"bad types": `{"n":1,"b":1}`,
	} {
		if m, err := decode([]byte(in)); err == nil {
			t.Errorf("%s: decoded %+v", name, m)
		}
	}
	if _, err := decode(make([]byte, maxMessage+1)); err == nil {
		t.Error("decoded a message that is too large")
	}
}

func FuzzMerge(f *testing.F) {
	f.Add([]byte(`{"n":"a","b":1,"s":3,"f":true,"i":{"s":1},"c":[{"g":"g","e":2,"s":3}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode(b)
		if err != nil {
			return
		}
		p := newPeer()
		p.merge(m)
		if p.merge(m) && !m.Full {
			t.Error("the same message changed something twice")
		}
	})
}
