// SPDX-License-Identifier: Apache-2.0

//go:build !kernel

package member

import (
	"bytes"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

func TestProfiles(t *testing.T) {
	t.Parallel()
	p := ProfileDefault
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	fs.Var(&p, "profile", "")
	last := time.Duration(0)
	for _, name := range []string{"fast", "default", "wan"} {
		if err := fs.Set("profile", name); err != nil || p.String() != name {
			t.Fatalf("%s: %s, %v", name, p, err)
		}
		timing := p.Timing()
		if timing.Verdict() <= last {
			t.Errorf("%s takes %s, not longer than the profile before", name, timing.Verdict())
		}
		last = timing.Verdict()
		if pulse := time.Duration(timing.PulseMisses) * timing.PulseInterval; pulse >= timing.Verdict() {
			t.Errorf("%s: the direct detector takes %s, the gossip %s", name, pulse, timing.Verdict())
		}
	}
	if err := fs.Set("profile", "lan"); err == nil {
		t.Error("takes an unknown profile")
	}
}

// The controller's rotation compares with these.
func TestKeyIDs(t *testing.T) {
	t.Parallel()
	if got := keyIDs([][]byte{bytes.Repeat([]byte{1}, keySize)})[0]; got != "72cd6e84" {
		t.Errorf("key id %s", got)
	}
}

// Why a node went may arrive after its goodbye, and it may be back as it was.
func TestGone(t *testing.T) {
	t.Parallel()
	l := New(Config{Node: "self"}, func() {})
	l.ctx = t.Context
	o := newOwn(7)
	tell := func(s State) {
		t.Helper()
		m, _ := o.update(s)
		b, err := encode(m)
		if err != nil {
			t.Fatal(err)
		}
		l.receive(b)
	}
	join := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.live["a"] = nil
		l.joinedLocked("a")
		l.publishLocked()
	}
	leave := func(at time.Time) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.goneLocked("a", at)
		l.publishLocked()
	}
	s := State{Claims: map[loadbalancer.Group]uint64{"g": 3}}
	join()
	tell(s)
	v := l.View()
	if m, run := v.Members["a"], v.Runs["a"]; !m.Known || m.Claims["g"] != 3 || run != (Run{Boot: 7, Joins: 1}) || len(v.Gone) > 0 {
		t.Errorf("member %+v of run %+v, gone %v", m, run, v.Gone)
	}
	at := time.Unix(1000, 0)
	leave(at)
	v = l.View()
	if g := v.Gone["a"]; len(v.Members) > 0 || g.Last.Claims["g"] != 3 || !g.At.Equal(at) || g.Restarting != 0 {
		t.Errorf("after the goodbye: members %v, gone %+v", v.Members, g)
	}
	s.Restarting = 30 * time.Second
	tell(s)
	if g := l.View().Gone["a"]; g.Restarting != 30*time.Second || g.Boot != 7 {
		t.Errorf("after the late word: %+v", g)
	}
	join()
	v = l.View()
	if m, run := v.Members["a"], v.Runs["a"]; m.Claims["g"] != 3 || run.Joins != 2 || len(v.Gone) > 0 {
		t.Errorf("back: member %+v of run %+v, gone %v", m, run, v.Gone)
	}
	leave(at)
	l.mu.Lock()
	l.live["b"] = nil
	l.goneLocked("b", at.Add(keepGone+time.Second))
	l.publishLocked()
	l.mu.Unlock()
	if v := l.View(); len(v.Gone) != 1 {
		t.Errorf("a node that is not in the cluster any longer is remembered: %v", v.Gone)
	}
}
