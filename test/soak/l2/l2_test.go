// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
)

func TestWatchNotesChanges(t *testing.T) {
	w := &Watch{owners: map[string]string{}}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, owner := range []string{"a", "a", "b", "b", "a"} {
		w.note("192.0.2.1", owner, at)
		w.note("192.0.2.2", "c", at)
	}
	got := w.Changes()
	if len(got) != 2 || got[0].From != "a" || got[0].To != "b" || got[1].To != "a" {
		t.Errorf("changes %v, want a → b and b → a", got)
	}
}

func TestParseAnswers(t *testing.T) {
	const out = `1790000001.250000000 Unicast reply from 192.0.2.1 [02:42:AC:14:00:03]  1.139ms
1790000000.500000000 Unicast reply from 192.0.2.1 [02:42:ac:14:00:04]  1.139ms
1790000000.100000000 ARPING 192.0.2.1 from 172.20.0.6 eth0
1790000002.000000000 Received 2 response(s)
`
	got := parseAnswers(out)
	if len(got) != 2 || got[0].mac != "02:42:ac:14:00:04" || got[1].mac != "02:42:ac:14:00:03" || !got[1].at.Equal(time.Unix(1790000001, 250000000)) {
		t.Errorf("read as %v, want two answers in order of time", got)
	}
	if late := macs(got, time.Unix(1790000001, 0)); len(late) != 1 || late[0] != "02:42:ac:14:00:03" {
		t.Errorf("answers after the second: %v, want one", late)
	}
}

func TestJudge(t *testing.T) {
	f := &Field{Addresses: []string{"192.0.2.1"}, macs: map[string]string{"m1": "worker", "m2": "worker2", "m3": "worker3"}}
	now := time.Now()
	heard := func(macs ...string) map[string][]answer {
		var out []answer
		for _, m := range macs {
			out = append(out, answer{at: now, mac: m})
		}
		return map[string][]answer{"192.0.2.1": out}
	}
	for name, tc := range map[string]struct {
		from                    string
		heard                   []string
		faults, doubled, silent int
	}{
		"one on each side":     {from: FromPeers, heard: []string{"m1", "m3"}, doubled: 1},
		"two that see another": {from: FromPeers, heard: []string{"m1", "m2"}, faults: 1},
		"only from the API":    {from: FromAPI, heard: []string{"m1", "m3"}, faults: 1},
		"nobody":               {from: FromAll, silent: 1},
		"one":                  {from: FromAll, heard: []string{"m3", "m3"}},
	} {
		s := &Split{Nodes: []string{"worker", "worker2"}, From: tc.from}
		f.judge(s, heard(tc.heard...))
		if len(s.Faults) != tc.faults || s.Doubled != tc.doubled || s.Silent != tc.silent {
			t.Errorf("%s: %+v, want %d faults, %d doubled, %d silent", name, s, tc.faults, tc.doubled, tc.silent)
		}
	}
}

func TestSettled(t *testing.T) {
	f := &Field{Addresses: []string{"192.0.2.1"}, macs: map[string]string{}}
	healed := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(ms int, mac string) answer {
		return answer{at: healed.Add(time.Duration(ms) * time.Millisecond), mac: mac}
	}
	for name, tc := range map[string]struct {
		heard  []answer
		want   time.Duration
		faults int
	}{
		"at once":    {heard: []answer{at(-200, "old"), at(-100, "new"), at(100, "new"), at(5900, "new")}},
		"after 0.8s": {heard: []answer{at(100, "new"), at(800, "old"), at(900, "new"), at(5900, "new")}, want: 800 * time.Millisecond},
		"never":      {heard: []answer{at(5000, "old"), at(5100, "new"), at(5900, "new")}, want: 5 * time.Second, faults: 1},
		"silence":    {faults: 1},
	} {
		s := &Split{}
		f.settled(s, map[string][]answer{"192.0.2.1": tc.heard}, healed)
		if s.Healed != tc.want || len(s.Faults) != tc.faults {
			t.Errorf("%s: healed after %s, faults %v; want %s and %d", name, s.Healed, s.Faults, tc.want, tc.faults)
		}
	}
}

func TestOutcome(t *testing.T) {
	cut := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	o := &Outcome{Name: "power cut", Node: "worker", Began: cut, Reports: []*harness.Report{
		{Sent: 10, LongestGapMs: 20},
		{Sent: 10, Failed: 3, LongestGapMs: 700, GapEnd: cut.Add(time.Second), FirstFailure: cut, FirstSuccessAfter: cut.Add(time.Second)},
	}}
	if failed, sent := o.Failed(); failed != 3 || sent != 20 {
		t.Errorf("%d of %d failed, want 3 of 20", failed, sent)
	}
	if ms, err := o.Blackout(); err != nil || ms != 700 {
		t.Errorf("blackout %v, %v; want 700", ms, err)
	}
	o.Began = cut.Add(time.Minute)
	if ms, err := o.Blackout(); err == nil {
		t.Errorf("blackout %v of a gap that ended before the cut, want an error", ms)
	}
}

func TestReportFaults(t *testing.T) {
	cut := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	loss := func(ms float64) *Outcome {
		return &Outcome{Name: "power cut", Began: cut, Reports: []*harness.Report{{
			Sent: 10, Failed: 3, LongestGapMs: ms, GapEnd: cut.Add(time.Second), FirstFailure: cut, FirstSuccessAfter: cut.Add(time.Second),
		}}}
	}
	held := &harness.HoldReport{Held: holds, Alive: holds}
	quiet := &Outcome{Name: "agent killed", Reports: []*harness.Report{{Sent: 100, OK: 100}}, Held: held}
	for name, tc := range map[string]struct {
		outcomes map[string][]*Outcome
		splits   []*Split
		want     string
	}{
		"good":           {outcomes: map[string][]*Outcome{"loss": {loss(600), loss(1100), loss(650)}, "restart": {quiet}}, splits: []*Split{{Doubled: 3, Healed: time.Second}}},
		"slow median":    {outcomes: map[string][]*Outcome{"loss": {loss(800), loss(900), loss(10)}}, want: "median of 800"},
		"slow once":      {outcomes: map[string][]*Outcome{"loss": {loss(600), loss(1300), loss(10)}}, want: "maximum of 1300"},
		"not measured":   {outcomes: map[string][]*Outcome{"loss": {{Name: "power cut", Began: cut.Add(time.Hour), Reports: loss(1).Reports}}}, want: "was not measured"},
		"a failure":      {outcomes: map[string][]*Outcome{"restart": {{Name: "x", Held: held, Reports: []*harness.Report{{Sent: 5, Failed: 1}}}}}, want: "1 of 5"},
		"a busy machine": {outcomes: map[string][]*Outcome{"restart": {{Name: "x", Held: held, Plain: &harness.Report{Failed: 1}, Reports: []*harness.Report{{Sent: 5, Failed: 2}}}}}},
		"busy, and more": {outcomes: map[string][]*Outcome{"restart": {{Name: "x", Held: held, Plain: &harness.Report{Failed: 1}, Reports: []*harness.Report{{Sent: 5, Failed: 3}}}}}, want: "3 of 5"},
		"an owner moved": {outcomes: map[string][]*Outcome{"away": {{Name: "x", Held: held, Changes: []Change{{}}}}}, want: "1 owner changes"},
		"a connection":   {outcomes: map[string][]*Outcome{"restart": {{Name: "x", Held: &harness.HoldReport{Broken: 1}}}}, want: "1 of 20 open connections"},
		"two answers":    {splits: []*Split{{Nodes: []string{"worker"}, From: FromPeers, Faults: []string{"192.0.2.1"}}}, want: "worker"},
		"a slow heal":    {splits: []*Split{{Healed: 3 * time.Second}}, want: "healed after 3s"},
	} {
		got := strings.Join((&Report{Outcomes: tc.outcomes, Splits: tc.splits}).Faults(), "\n")
		if (tc.want == "") != (got == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s: faults %q, want %q in them", name, got, tc.want)
		}
	}
}
