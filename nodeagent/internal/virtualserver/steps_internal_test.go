// SPDX-License-Identifier: Apache-2.0

package virtualserver

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

func key(n int) loadbalancer.RealServerKey {
	return loadbalancer.RealServerKey{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), Port: 80}
}

func TestStepsOfOneChange(t *testing.T) {
	// "2:1" is the real server 10.0.0.2 of weight 1, ":0-" one of weight 0 that was added so.
	for _, c := range []struct {
		name       string
		order      order
		have, want string
		keep       bool // those that go
		steps      string
	}{
		{"first", indifferent, "", "1:1 2:1", true, "+1:1 +2:1"},
		{"one more", indifferent, "1:1 3:1", "1:1 2:1 3:1", true, "+2:1"},
		{"one less drains", indifferent, "1:1 2:1", "2:1", true, "=1:0"},
		{"one less of UDP goes", indifferent, "1:1 2:1", "2:1", false, "!1"},
		{"it is back", indifferent, "1:0 2:1", "1:3 2:1", true, "=1:3"},
		{"replaced: first add", indifferent, "1:1", "2:1", true, "+2:1 =1:0"},
		{"weights: first up", indifferent, "1:1 2:0", "1:0 2:1", true, "=2:1 =1:0"},
		{"nothing", indifferent, "3:1 1:1 2:2", "1:1 2:2 3:1", true, ""},
		{"hashed: one more at the end", hashed, "1:1 2:1", "1:1 2:1 3:1", true, "+3:1"},
		{"hashed: one more in the middle", hashed, "1:1 3:1 4:1", "1:1 2:1 3:1 4:1", true, "+2:1 -3 +3:1 -4 +4:1"},
		{"hashed: one less", hashed, "1:1 2:1 3:1", "1:1 3:1", true, "-2 +2:0"},
		{"hashed: still draining", hashed, "1:1 3:1 2:0-", "1:1 3:1", true, ""},
		{"hashed: adopted draining", hashed, "1:1 3:1 2:0", "1:1 3:1", true, "-2 +2:0"},
		{"hashed: back from draining", hashed, "1:1 3:1 2:0-", "1:1 2:1 3:1", true, "-2 +2:1 -3 +3:1"},
		{"hashed: weight", hashed, "1:1 2:1 3:1", "1:1 2:5 3:1", true, "=2:5"},
		{"hashed: wrong order", hashed, "2:1 1:1", "1:1 2:1", true, "-1 +1:1 -2 +2:1"},
		{"hashed: one of UDP less", hashed, "1:1 2:1 3:1", "1:1 3:1", false, "!2"},
		{"ranked: one less", ranked, "1:1 2:1 3:1", "1:1 3:1", true, "=2:0"},
		{"ranked: back", ranked, "1:1 2:0 3:1", "1:1 2:1 3:1", true, "-2 +2:1 -3 +3:1"},
		{"blind: without weight is gone", blind, "1:1 2:1", "1:1 2:0", true, "!2"},
		{"blind: one less is gone", blind, "1:1 2:1", "1:1", true, "!2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			have := parse(t, c.have)
			var want []loadbalancer.RealServer
			for _, r := range parse(t, c.want) {
				want = append(want, r.RealServer)
			}
			if got := show(steps(c.order, have, want, c.keep)); got != c.steps {
				t.Errorf("steps %q, want %q", got, c.steps)
			}
		})
	}
}

func parse(t *testing.T, text string) []member {
	t.Helper()
	var out []member
	for text != "" {
		var n int
		var weight uint32
		if _, err := fmt.Sscanf(text, "%d:%d", &n, &weight); err != nil {
			t.Fatal(err)
		}
		word := text
		if i := slices.Index([]byte(text), ' '); i >= 0 {
			word, text = text[:i], text[i+1:]
		} else {
			text = ""
		}
		out = append(out, member{
			RealServer: loadbalancer.RealServer{RealServerKey: key(n), Weight: weight}, aside: word[len(word)-1] == '-',
		})
	}
	return out
}

func show(list []step) string {
	out := ""
	for _, s := range list {
		if out != "" {
			out += " "
		}
		n := s.Addr.As4()[3]
		switch s.verb {
		case add:
			out += fmt.Sprintf("+%d:%d", n, s.Weight)
		case update:
			out += fmt.Sprintf("=%d:%d", n, s.Weight)
		case remove:
			out += fmt.Sprintf("-%d", n)
		case expire:
			out += fmt.Sprintf("!%d", n)
		}
	}
	return out
}

// Whatever came before, the kernel's list ends up as that of a node that begins now, as far
// as its scheduler looks; and there is always somebody to take a connection.
func TestStepsForgetTheirHistory(t *testing.T) {
	for _, o := range []order{indifferent, ranked, hashed, blind} {
		for seed := range uint64(300) {
			random := rand.New(rand.NewPCG(seed, uint64(o)))
			var have []member
			for range 12 {
				want := randomWant(random)
				drains := random.IntN(2) == 0
				had := available(have)
				list := steps(o, have, want, drains)
				have = run(t, o, have, list, had > 0 && positive(want) > 0 && o == indifferent)
				fresh := run(t, o, nil, steps(o, nil, want, drains), false)
				if o != indifferent && !slices.Equal(seen(have), seen(fresh)) {
					t.Fatalf("order %d, seed %d: %v, a fresh node has %v", o, seed, seen(have), seen(fresh))
				}
				for _, w := range want {
					at := slices.IndexFunc(have, func(r member) bool { return r.RealServerKey == w.RealServerKey })
					if o == blind && w.Weight == 0 {
						if at >= 0 {
							t.Fatalf("seed %d: one without weight is there", seed)
						}
						continue
					}
					if at < 0 || have[at].Weight != w.Weight {
						t.Fatalf("order %d, seed %d: %v is not as wanted", o, seed, w)
					}
					if w.Weight == 0 && o == hashed && !have[at].aside {
						t.Fatalf("seed %d: %v has a place in the table", seed, w)
					}
				}
				if again := steps(o, have, want, drains); len(again) > 0 {
					t.Fatalf("order %d, seed %d: still %q to do", o, seed, show(again))
				}
			}
		}
	}
}

func randomWant(random *rand.Rand) []loadbalancer.RealServer {
	var want []loadbalancer.RealServer
	for n := range 8 {
		if random.IntN(3) > 0 {
			want = append(want, loadbalancer.RealServer{RealServerKey: key(n + 1), Weight: uint32(random.IntN(3))})
		}
	}
	return want
}

func run(t *testing.T, o order, have []member, list []step, always bool) []member {
	t.Helper()
	have = slices.Clone(have)
	for _, s := range list {
		at := slices.IndexFunc(have, func(r member) bool { return r.RealServerKey == s.RealServerKey })
		switch s.verb {
		case add:
			if at >= 0 {
				t.Fatalf("order %d: %v added twice", o, s.RealServer)
			}
			have = append(have, member{RealServer: s.RealServer, aside: s.Weight == 0})
		case update:
			have[at].RealServer = s.RealServer
			have[at].aside = have[at].aside && s.Weight == 0
		case remove, expire:
			have = slices.Delete(have, at, at+1)
		}
		if always && available(have) == 0 {
			t.Fatalf("order %d: nobody takes connections after %q", o, show(list))
		}
	}
	return have
}

func available(have []member) int {
	n := 0
	for _, r := range have {
		if r.Weight > 0 {
			n++
		}
	}
	return n
}

func positive(want []loadbalancer.RealServer) int {
	n := 0
	for _, r := range want {
		if r.Weight > 0 {
			n++
		}
	}
	return n
}

// seen is what a scheduler to which the order means something sees.
func seen(have []member) []loadbalancer.RealServer {
	var out []loadbalancer.RealServer
	for _, r := range have {
		if r.Weight > 0 {
			out = append(out, r.RealServer)
		}
	}
	return out
}
