// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/harness"
)

func TestParseVerdict(t *testing.T) {
	t.Parallel()
	near := time.Date(2026, 11, 22, 15, 57, 48, 0, time.UTC)
	at := near.Add(120187 * time.Microsecond)
	head := `I1122 15:57:48.120187   19475 gossip.go:262] `
	tests := map[string]struct {
		line string
		want verdict
		ok   bool
	}{
		"lost":       {head + `"Peer is gone" node="n002" peer="n001" left=false restarting="0s"`, verdict{at: at, peer: "n001"}, true},
		"silent":     {head + `"Node's kernel does not answer" node="n002" peer="n001"`, verdict{at: at, peer: "n001", pulse: true}, true},
		"left":       {head + `"Peer is gone" node="n002" peer="n001" left=true restarting="0s"`, verdict{}, false},
		"restarting": {head + `"Peer is gone" node="n002" peer="n001" left=false restarting="30s"`, verdict{}, false},
		"joined":     {head + `"Peer joined" node="n002" peer="n001" address="10.30.0.10:7956"`, verdict{}, false},
		"no header":  {`"Peer is gone" peer="n001" left=false`, verdict{}, false},
	}
	for name, tt := range tests {
		if got, ok := parseVerdict(tt.line, near); got != tt.want || ok != tt.ok {
			t.Errorf("%s: read %+v (%t), want %+v (%t)", name, got, ok, tt.want, tt.ok)
		}
	}
}

func TestStat(t *testing.T) {
	t.Parallel()
	tests := []struct {
		values []float64
		want   Stat
	}{
		{nil, Stat{}},
		{[]float64{3}, Stat{N: 1, Min: 3, P50: 3, P99: 3, Max: 3}},
		{[]float64{4, 1, 3, 2}, Stat{N: 4, Min: 1, P50: 2.5, P99: 4, Max: 4}},
	}
	for _, tt := range tests {
		if got := newStat(tt.values); got != tt.want {
			t.Errorf("%v: %+v, want %+v", tt.values, got, tt.want)
		}
	}
}

// A change and its way back are two terms; an address that stays is none.
func TestTerms(t *testing.T) {
	t.Parallel()
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	before := map[netip.Addr]v1alpha1.Owner{a: {Node: "x", Epoch: 1}, b: {Node: "y", Epoch: 7}}
	after := map[netip.Addr]v1alpha1.Owner{a: {Node: "x", Epoch: 3}, b: {Node: "y", Epoch: 7}}
	if n := terms(before, after); n != 2 {
		t.Errorf("%d terms, want 2", n)
	}
}

// Every report must have a table whose rows are as long as its heading, whatever was
// measured.
func TestReports(t *testing.T) {
	t.Parallel()
	h := NewHead("l2-test", harness.Machine{Kernel: "6.1", Cores: 2, MemoryMiB: 1024})
	reports := map[string]interface{ Markdown() string }{
		"failover": &Failover{Head: h, Cases: []FailoverCase{{Profile: "default", Kind: powerCut, VIPs: 2, Cuts: []Cut{{LastMs: 450, Spread: map[string]int{"n1": 1}}}}}},
		"rollout":  &Rollout{Head: h, Growths: []Growth{{To: 10}}, Placement: &Placement{}},
		"arp":      &ARP{Head: h, Answers: []Answers{{VIPs: 1, Family: "ARP"}}, Junk: &Junk{}},
		"gossip":   &Gossip{Head: h, Members: []Members{{Nodes: 3, Deaths: []Death{{FirstMs: 600}}, Starved: []Starved{{Name: "x"}}}}},
	}
	for name, r := range reports {
		columns, tables := 0, 0
		for line := range strings.Lines(r.Markdown()) {
			if !strings.HasPrefix(line, "|") {
				columns = 0
				continue
			}
			if n := strings.Count(line, "|"); columns == 0 {
				columns, tables = n, tables+1
			} else if n != columns {
				t.Errorf("%s: a row of %d columns in a table of %d: %s", name, n, columns, line)
			}
		}
		if tables == 0 {
			t.Errorf("%s: no table", name)
		}
	}
}
