// SPDX-License-Identifier: Apache-2.0

//go:build !kernel

package bgp

import (
	"net"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

func TestBFDEndsASessionHardAndItComesBack(t *testing.T) {
	words := make(chan *notification, 100)
	p := newStranger(t, "127.0.0.2", func(c net.Conn) {
		if greet(c) {
			words <- lastWords(c)
		}
	})
	d := newFakeDetector()
	s := begin(t, Options{Detector: d})
	spec := p.spec("p")
	spec.GracefulRestart = true // BFD is stronger
	spec.BFD = loadbalancer.BFDSession{Profile: "fast", Multiplier: 3}
	s.Apply(planOf(many(1), spec), lab)
	awaitState(t, s, "p", Established) // BFD is Down, but not strict
	d.set("Up", 0)
	for i := range uint64(20) {
		eventually(t, "it is up", func() bool { st := stateOf(s, "p"); return st.State == Established && st.BFD == "Up" && st.Flaps == i })
		d.set("Down", i+1)
		if n := heard(t, words); n == nil || n.code != codeCease || n.subcode != subBFDDown {
			t.Fatalf("told %v", n)
		}
		eventually(t, "it says so", func() bool { st := stateOf(s, "p"); return st.Flaps == i+1 })
		d.set("Up", i+1)
	}
	s.Apply(loadbalancer.BGPPlan{}, nil)
	eventually(t, "BFD ends with the session", func() bool { return !d.watches("p") })
}

func TestStrictBFDTellsNothingBefore(t *testing.T) {
	p := newStranger(t, "127.0.0.2", decent)
	d := newFakeDetector()
	s := begin(t, Options{Detector: d})
	spec := p.spec("p")
	spec.BFD = loadbalancer.BFDSession{Profile: "strict", Strict: true}
	s.Apply(planOf(many(1), spec), lab)
	eventually(t, "it waits", func() bool { return stateOf(s, "p").Reason == reason.BFDDown })
	if n := p.count(); n != 0 {
		t.Errorf("%d connections before BFD was up", n)
	}
	d.set("Up", 0)
	awaitState(t, s, "p", Established)
}

func TestBFDThatComesUpEndsTheWaitBetweenAttempts(t *testing.T) {
	p := newStranger(t, "127.0.0.2", decent)
	spec := p.spec("p")
	_ = p.l.Close()
	p.wg.Wait()
	spec.Connect = time.Hour
	spec.BFD = loadbalancer.BFDSession{Profile: "fast"}
	d := newFakeDetector()
	s := begin(t, Options{Detector: d})
	s.Apply(planOf(nil, spec), lab)
	awaitState(t, s, "p", Active)
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", net.JoinHostPort(spec.Addr.String(), fmtPort(spec.Port)))
	if err != nil {
		t.Fatal(err)
	}
	p.l = l
	p.wg.Go(p.serve)
	d.set("Up", 0)
	awaitState(t, s, "p", Established)
}

func TestEndsOfSessions(t *testing.T) {
	tests := []struct {
		name string
		gr   bool
		end  func(t *testing.T, s *Speaker, spec loadbalancer.BGPSession)
		want *notification
	}{
		{"leave", true, func(t *testing.T, s *Speaker, _ loadbalancer.BGPSession) {
			t.Helper()
			if err := s.Stop(t.Context(), false); err != nil {
				t.Error(err)
			}
		}, &notification{code: codeCease, subcode: adminDown}},
		{"restart", true, func(t *testing.T, s *Speaker, _ loadbalancer.BGPSession) {
			t.Helper()
			if err := s.Stop(t.Context(), true); err != nil {
				t.Error(err)
			}
		}, nil},
		{"removed", true, func(_ *testing.T, s *Speaker, _ loadbalancer.BGPSession) { s.Apply(loadbalancer.BGPPlan{}, nil) }, &notification{code: codeCease, subcode: 3}},
		{"changed", false, func(_ *testing.T, s *Speaker, spec loadbalancer.BGPSession) {
			spec.Hold = 30 * time.Second
			s.Apply(planOf(nil, spec), lab)
		}, &notification{code: codeCease, subcode: 6}},
		{"changed with graceful restart", true, func(_ *testing.T, s *Speaker, spec loadbalancer.BGPSession) {
			spec.Hold = 30 * time.Second
			s.Apply(planOf(nil, spec), lab)
		}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			words := make(chan *notification, 10)
			p := newStranger(t, "127.0.0.2", func(c net.Conn) {
				if greet(c) {
					words <- lastWords(c)
				}
			})
			s := begin(t, Options{})
			spec := p.spec("p")
			spec.GracefulRestart = tt.gr
			s.Apply(planOf(many(5), spec), lab)
			awaitState(t, s, "p", Established)
			tt.end(t, s, spec)
			n := heard(t, words)
			if (n == nil) != (tt.want == nil) || n != nil && (n.code != tt.want.code || n.subcode != tt.want.subcode) {
				t.Errorf("told %v, want %v", n, tt.want)
			}
		})
	}
}

// What only concerns waits between attempts leaves a session alone.
func TestSoftChangesKeepTheConnection(t *testing.T) {
	p := newStranger(t, "127.0.0.2", decent)
	d := newFakeDetector()
	s := begin(t, Options{Detector: d})
	spec := p.spec("p")
	spec.BFD = loadbalancer.BFDSession{Profile: "a", Multiplier: 3}
	s.Apply(planOf(many(1), spec), lab)
	awaitState(t, s, "p", Established)
	spec.Connect, spec.IdleHold = time.Minute, time.Minute
	spec.BFD = loadbalancer.BFDSession{Profile: "b", Multiplier: 5}
	s.Apply(planOf(many(2), spec), lab)
	eventually(t, "the second route is told", func() bool { return stateOf(s, "p").Prefixes == 2 })
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.watched["p"].Multiplier != 5 || p.count() != 1 {
		t.Errorf("watched %+v, %d connections", d.watched["p"], p.count())
	}
}

// BFD must not end what graceful restart is to keep, and must not outlive what it does not.
func TestBFDIsSuspendedForARestartOnly(t *testing.T) {
	for _, tt := range []struct {
		name         string
		gr, graceful bool
		want         int
	}{{"restart", true, true, 1}, {"restart without graceful restart", false, true, 0}, {"leave", true, false, 0}} {
		t.Run(tt.name, func(t *testing.T) {
			p := newStranger(t, "127.0.0.2", decent)
			d := newFakeDetector()
			s := begin(t, Options{Detector: d})
			spec := p.spec("p")
			spec.GracefulRestart, spec.BFD = tt.gr, loadbalancer.BFDSession{Profile: "fast"}
			s.Apply(planOf(many(1), spec), lab)
			awaitState(t, s, "p", Established)
			if err := s.Stop(t.Context(), tt.graceful); err != nil {
				t.Fatal(err)
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			if len(d.suspended) != tt.want || len(d.watched) != 0 {
				t.Errorf("suspended %v, watched %v", d.suspended, d.watched)
			}
		})
	}
}

// A router that hears first that BFD ended shows its operator that as the cause.
func TestPeersHearTheCauseBeforeBFDEnds(t *testing.T) {
	for name, end := range map[string]func(s *Speaker) error{
		"leave":   func(s *Speaker) error { return s.Stop(t.Context(), false) },
		"removed": func(s *Speaker) error { s.Apply(loadbalancer.BGPPlan{}, nil); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			told := make(chan struct{})
			p := newStranger(t, "127.0.0.2", func(c net.Conn) {
				if greet(c) && lastWords(c) != nil {
					close(told)
				}
			})
			d, forgotten := newFakeDetector(), make(chan bool, 1)
			var ended time.Time
			d.forgets = func() {
				had := time.Since(ended)
				select {
				case <-told:
					forgotten <- had >= hearing // to read it, too
				case <-time.After(5 * time.Second):
					forgotten <- false
				}
			}
			s := begin(t, Options{Detector: d})
			spec := p.spec("p")
			spec.BFD = loadbalancer.BFDSession{Profile: "fast"}
			s.Apply(planOf(many(1), spec), lab)
			awaitState(t, s, "p", Established)
			ended = time.Now()
			if err := end(s); err != nil {
				t.Fatal(err)
			}
			if !<-forgotten {
				t.Error("BFD ended before the peer was told why, or as soon as it was")
			}
		})
	}
}
