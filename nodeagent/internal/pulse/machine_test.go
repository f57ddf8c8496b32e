// SPDX-License-Identifier: Apache-2.0

package pulse

import (
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

var byDefault = Timing{Interval: 100 * time.Millisecond, Misses: 4}

func target(n loadbalancer.NodeName) Target {
	return Target{Node: n, Run: 1, Link: "eth0", Addr: netip.AddrFrom4([4]byte{10, 0, 0, n[0]}), Source: netip.AddrFrom4([4]byte{10, 0, 0, 1})}
}

func lost(n loadbalancer.NodeName) Target {
	t := target(n)
	t.Lost = true
	return t
}

// world answers a machine's questions on behalf of the kernels that live.
type world struct {
	t     rapid.TB
	m     *Machine
	now   time.Time
	alive map[loadbalancer.NodeName]bool
	asked map[loadbalancer.NodeName]int
	// lag is how late the machine is called.
	lag time.Duration
}

func newWorld(t rapid.TB, timing Timing, alive ...loadbalancer.NodeName) *world {
	w := &world{t: t, now: time.Unix(1000, 0), alive: map[loadbalancer.NodeName]bool{}, asked: map[loadbalancer.NodeName]int{}}
	w.m = New(timing, w.now)
	for _, n := range alive {
		w.alive[n] = true
	}
	return w
}

// run lets time pass.
func (w *world) run(d time.Duration) {
	w.t.Helper()
	end := w.now.Add(d)
	for steps := 0; ; steps++ {
		next, ok := w.m.Next()
		if !ok || next.Add(w.lag).After(end) {
			break
		}
		if steps > 100000 {
			w.t.Fatal("the machine asks without end")
		}
		if at := next.Add(w.lag); at.After(w.now) {
			w.now = at
		}
		ask, _ := w.m.Tick(w.now)
		for _, q := range ask {
			w.asked[q.Node]++
			if w.alive[q.Node] {
				w.m.Heard(w.now.Add(time.Millisecond), q.Link, q.Addr)
			}
		}
	}
	w.now = end
}

func (w *world) expect(n loadbalancer.NodeName, want State) {
	w.t.Helper()
	if got := w.m.State(n); got != want {
		w.t.Errorf("%s is %s, want %s", n, got, want)
	}
}

func TestDeathIsNoticed(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		timing Timing
		within time.Duration
	}{
		"default": {byDefault, 520 * time.Millisecond},
		"fast":    {Timing{50 * time.Millisecond, 3}, 210 * time.Millisecond},
	} {
		for _, after := range []time.Duration{0, 10, 37, 50, 99} {
			w := newWorld(t, tt.timing, "b", "c")
			w.m.Watch([]Target{target("b")}, []Target{target("c")})
			w.run(time.Second + after*time.Millisecond)
			w.expect("b", Alive)
			w.alive["b"] = false
			w.run(time.Duration(tt.timing.Misses-1) * tt.timing.Interval)
			w.expect("b", Alive)
			w.run(tt.within - time.Duration(tt.timing.Misses-1)*tt.timing.Interval)
			w.expect("b", Dead)
			w.alive["b"] = true
			w.run(tt.timing.Interval + 10*time.Millisecond)
			w.expect("b", Alive)
			if t.Failed() {
				t.Fatalf("%s, death at %d ms", name, after)
			}
		}
	}
}

func TestStates(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]func(w *world){
		"nobody is watched": func(w *world) {
			w.run(time.Second)
			w.expect("b", Unknown)
			if len(w.asked) > 0 {
				w.t.Errorf("asked %v", w.asked)
			}
		},
		"one that never answered is not dead": func(w *world) {
			w.m.Watch([]Target{target("x")}, []Target{target("b")})
			w.run(time.Minute)
			w.expect("x", Unknown)
		},
		"of two that are silent together none is known to be dead": func(w *world) {
			w.m.Watch([]Target{target("b"), target("c")}, []Target{target("b"), target("c")})
			w.run(time.Second)
			w.alive["b"], w.alive["c"] = false, false
			w.run(time.Second)
			w.expect("b", Silent)
			w.expect("c", Silent)
			w.alive["c"] = true
			w.run(120 * time.Millisecond)
			w.expect("b", Dead)
			w.expect("c", Alive)
		},
		"the only peer's silence is its death": func(w *world) {
			w.m.Watch([]Target{target("b")}, []Target{target("b")})
			w.run(time.Second)
			w.alive["b"] = false
			w.run(520 * time.Millisecond)
			w.expect("b", Dead)
		},
		"a witness on another link proves nothing about this one": func(w *world) {
			other := target("c")
			other.Link = "eth1"
			silent := target("x")
			w.m.Watch([]Target{target("b")}, []Target{other, silent})
			w.run(time.Second)
			w.alive["b"] = false
			w.run(time.Second)
			w.expect("b", Silent)
			// The gossip loses the only witness: there is nobody to vouch any more.
			if !w.m.Watch([]Target{target("b")}, []Target{other}) {
				w.t.Error("no change is told")
			}
			w.expect("b", Dead)
		},
		"a witness that answered before the silence proves nothing": func(w *world) {
			w.m.Watch([]Target{target("b"), target("c")}, []Target{target("c")})
			w.run(time.Second)
			w.alive["b"] = false
			w.run(220 * time.Millisecond) // two misses
			w.alive["c"] = false
			w.run(400 * time.Millisecond)
			w.expect("b", Silent)
		},
		"silence that the gossip does not confirm is forgotten": func(w *world) {
			w.m.Watch([]Target{target("b")}, []Target{target("c")})
			w.run(time.Second)
			w.alive["b"] = false
			w.run(time.Second)
			w.expect("b", Dead)
			w.run(distrust)
			w.expect("b", Unknown)
			w.run(time.Minute)
			w.expect("b", Unknown)
			w.alive["b"] = true
			w.run(200 * time.Millisecond)
			w.expect("b", Alive)
		},
		"what the gossip lost is asked quickly": func(w *world) {
			w.m.Watch([]Target{lost("x"), lost("b")}, []Target{target("c")})
			w.run(10 * time.Millisecond)
			w.expect("b", Alive)
			w.expect("x", Unknown)
			w.run(170 * time.Millisecond)
			w.expect("x", Dead)
			w.expect("b", Alive)
			w.run(time.Minute)
			w.expect("x", Dead)
		},
		"what the gossip lost has to answer anew": func(w *world) {
			w.m.Watch([]Target{target("b")}, nil)
			w.run(time.Second)
			w.alive["b"] = false
			w.m.Watch([]Target{lost("b")}, nil)
			w.expect("b", Unknown)
			w.run(170 * time.Millisecond)
			w.expect("b", Dead)
		},
		"a new membership starts anew": func(w *world) {
			w.m.Watch([]Target{target("b")}, nil)
			w.run(time.Second)
			w.alive["b"] = false
			w.run(time.Second)
			w.expect("b", Dead)
			again := target("b")
			again.Run = 2
			w.m.Watch([]Target{again}, nil)
			w.expect("b", Unknown)
			w.run(time.Minute)
			w.expect("b", Unknown)
		},
		"questions that could not be asked prove nothing": func(w *world) {
			w.m.Watch([]Target{target("b")}, nil)
			w.run(time.Second)
			for range 20 {
				w.alive["b"] = false
				w.run(100 * time.Millisecond)
				w.m.Unasked("b")
			}
			w.expect("b", Alive)
		},
		"another address is another question": func(w *world) {
			w.m.Watch([]Target{target("b")}, nil)
			w.run(time.Second)
			moved := target("b")
			moved.Addr = netip.AddrFrom4([4]byte{10, 0, 0, 77})
			w.m.Watch([]Target{moved}, nil)
			w.expect("b", Unknown)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			script(newWorld(t, byDefault, "b", "c"))
		})
	}
}

// A process that runs late cannot tell who was silent.
func TestStarvedWatcher(t *testing.T) {
	t.Parallel()
	w := newWorld(t, byDefault, "b", "c")
	w.m.Watch([]Target{target("b")}, []Target{target("c")})
	w.run(time.Second)
	w.alive["b"], w.lag = false, 80*time.Millisecond
	w.run(10 * time.Second)
	w.expect("b", Alive)
	w.lag = 0
	w.run(600 * time.Millisecond)
	w.expect("b", Dead)
	// A verdict that was reached is not forgotten for that.
	w.lag = 80 * time.Millisecond
	w.run(time.Second)
	w.expect("b", Dead)
}

// Where every other question is judged late, a node that the gossip lost is found dead all
// the same, and one that lives is not.
func TestBusyWatcherOfLostNode(t *testing.T) {
	t.Parallel()
	for _, alive := range []bool{false, true} {
		w := newWorld(t, byDefault, "b", "c")
		w.alive["b"] = alive
		w.m.Watch([]Target{lost("b")}, []Target{target("c")})
		for i := range 40 {
			w.lag = time.Duration(i%2) * 60 * time.Millisecond
			w.run(60*time.Millisecond + w.lag)
		}
		w.expect("b", map[bool]State{false: Dead, true: Alive}[alive])
	}
}

func TestWithoutMissesNobodyIsWatched(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Timing{}, "b")
	w.m.Watch([]Target{lost("b")}, nil)
	w.run(time.Minute)
	w.expect("b", Unknown)
}

// The questions of an agent are bounded, whomever it watches; nobody asks witnesses while
// all answer.
func TestRate(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 5, 10, 40} {
		w := newWorld(t, byDefault)
		var targets, witnesses []Target
		for i := range n {
			tt := target(loadbalancer.NodeName([]byte{byte(i + 1)}))
			w.alive[tt.Node] = true
			targets = append(targets, tt)
		}
		other := target("w")
		w.alive["w"] = true
		witnesses = append(witnesses, other)
		w.m.Watch(targets, witnesses)
		w.run(10 * time.Second)
		total := 0
		for _, c := range w.asked {
			total += c
		}
		if limit := min(n*101, 1050); total > limit || total < limit*8/10 {
			t.Errorf("%d questions in 10 s to %d nodes, want about %d", total, n, limit)
		}
		if w.asked["w"] > 0 {
			t.Error("asked a witness though nobody was silent")
		}
	}
}

// Whoever dies, comes back, is lost or found: the living are never dead while the machine
// runs on time and answers arrive, and what died for longer than it takes is, as long as
// somebody vouches for the link.
func TestLivingAreNeverDead(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, byDefault)
		names := []loadbalancer.NodeName{"b", "c", "d", "e"}
		for _, n := range names {
			w.alive[n] = true
		}
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			var targets, witnesses []Target
			for _, n := range names {
				tt := target(n)
				tt.Lost = rapid.Bool().Draw(t, "lost")
				if rapid.Bool().Draw(t, "watched") {
					targets = append(targets, tt)
				}
				if rapid.Bool().Draw(t, "witness") {
					witnesses = append(witnesses, target(n))
				}
				w.alive[n] = rapid.IntRange(0, 3).Draw(t, "alive") > 0
			}
			w.m.Watch(targets, witnesses)
			w.run(time.Duration(rapid.IntRange(200, 2000).Draw(t, "ms")) * time.Millisecond)
			for _, tt := range targets {
				switch got := w.m.State(tt.Node); {
				case w.alive[tt.Node] && got != Alive:
					t.Fatalf("%s lives and is %s", tt.Node, got)
				case !w.alive[tt.Node] && got == Alive && w.now.Sub(w.m.watched[tt.Node].heard) > 600*time.Millisecond:
					t.Fatalf("%s died long ago and is Alive", tt.Node)
				case !w.alive[tt.Node] && tt.Lost && got == Unknown && w.now.Sub(w.m.watched[tt.Node].asked) > time.Second:
					t.Fatalf("%s is Unknown", tt.Node)
				}
			}
		}
	})
}
