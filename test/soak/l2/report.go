// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Limits that a run is held against: the project's targets for a machine that does
// nothing else.
const (
	medianLimitMs = 700
	maxLimitMs    = 1200
	healLimit     = 2 * time.Second
)

// Faults are the figures that missed their target, none if all held.
func (r *Report) Faults() []string {
	out := slices.Clone(r.Problems)
	for _, o := range r.Outcomes["loss"] {
		if _, err := o.Blackout(); err != nil {
			out = append(out, fmt.Sprintf("%s on %s was not measured: %v", o.Name, o.Node, err))
		}
	}
	for name, ms := range r.blackouts() {
		if median, worst := median(ms), ms[len(ms)-1]; median > medianLimitMs || worst > maxLimitMs {
			out = append(out, fmt.Sprintf("%s: blackouts have a median of %.0f ms and a maximum of %.0f ms, want at most %d and %d", name, median, worst, medianLimitMs, maxLimitMs))
		}
	}
	for _, part := range []string{"restart", "away"} {
		for _, o := range r.Outcomes[part] {
			if o.Lost() > 0 || o.Broken() > 0 || len(o.Changes) > 0 {
				out = append(out, fmt.Sprintf("%s, want none of them:%s", o, o.Errors()))
			}
		}
	}
	for _, o := range r.Outcomes["move"] {
		if o.Lost() > 0 {
			out = append(out, fmt.Sprintf("%s, want no failed request:%s", o, o.Errors()))
		}
	}
	for _, s := range r.Splits {
		if len(s.Faults) > 0 || s.Silent > 0 || s.Healed > healLimit {
			out = append(out, fmt.Sprintf("%v cut off from %s: faults %v, %d silent, healed after %s, want none, none and at most %s",
				s.Nodes, s.From, s.Faults, s.Silent, s.Healed, healLimit))
		}
	}
	slices.Sort(out)
	return out
}

// blackouts in milliseconds, ascending, by the name of the loss, of those that could be
// measured: a machine that stalls may show a longer gap before the loss.
func (r *Report) blackouts() map[string][]float64 {
	out := map[string][]float64{}
	for _, o := range r.Outcomes["loss"] {
		if ms, err := o.Blackout(); err == nil {
			out[o.Name] = append(out[o.Name], ms)
		}
	}
	for _, ms := range out {
		slices.Sort(ms)
	}
	return out
}

// median of ascending values.
func median(ms []float64) float64 { return (ms[(len(ms)-1)/2] + ms[len(ms)/2]) / 2 }

// Markdown shows the report.
func (r *Report) Markdown() string {
	var b strings.Builder
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(&b, format, args...) }
	p("Four nodes with kube-proxy; one pod on the control plane, which announces nothing, behind dual-stack Services.\n"+
		"The client sends every request on a new connection, by IPv4 and by IPv6, and holds %d connections open. An owner change is a claim\n"+
		"that names another node than before. A third stream goes to the pod through a node port, past the load balancer: what fails there is\n"+
		"the machine's doing, and twice as many failures for each family are put down to it. Elapsed: %.0f s.\n\n", holds, r.Elapsed.Seconds())
	if r.Plain != nil {
		p("The same prober against a plain pod through a node port: %d new connections a second, %d of %d failed, p50 %.1f ms, p99 %.1f ms.\n"+
			"Streams below have half of that rate by IPv4 and half by IPv6, and half of it goes to the plain pod at the same time (an eighth each while\n"+
			"processors are kept busy).\n\n", r.Rate, r.Plain.Failed, r.Plain.Sent, r.Plain.LatencyP50Ms, r.Plain.LatencyP99Ms)
	}
	r.losses(p)
	r.table(p, "restart", "Agents that restart", "Wanted: no failed request, no broken connection, no owner change.")
	r.table(p, "away", "Controller and API server away", "Wanted: the same.")
	r.table(p, "move", fmt.Sprintf("Nodes emptied, %d dual-stack Services", r.MoveServices),
		"Wanted: no failed request. Open connections through a node that goes break: the next node knows nothing of them.")
	r.table(p, "starve", "Starved agents", "Wanted: no owner change because of the starved agent's view. An agent that does not run at all for longer than 5 s loses its addresses, without a failed request.")
	r.splits(p)
	return b.String()
}

type printer func(format string, args ...any)

func (r *Report) losses(p printer) {
	if len(r.Outcomes["loss"]) == 0 {
		return
	}
	p("## Nodes lost\n\nA request every 10 ms; the blackout is the longest gap between two answers of the family that suffered more.\n"+
		"Wanted: median at most %d ms, maximum %d ms.\n\n| event | runs | median ms | min ms | max ms | all, ascending |\n|---|---|---|---|---|---|\n", medianLimitMs, maxLimitMs)
	byName := r.blackouts()
	for _, name := range []string{"power cut", "link down", "link down in a restart"} {
		if ms := byName[name]; len(ms) > 0 {
			var all []string
			for _, v := range ms {
				all = append(all, fmt.Sprintf("%.0f", v))
			}
			p("| %s | %d | **%.0f** | %.0f | %.0f | %s |\n", name, len(ms), median(ms), ms[0], ms[len(ms)-1], strings.Join(all, " "))
		}
	}
	p("\n")
}

func (r *Report) table(p printer, part, title, wanted string) {
	all := r.Outcomes[part]
	if len(all) == 0 {
		return
	}
	p("## %s\n\n%s\n\n| event | times | requests failed | of these under way in a move | failed to a plain pod | open connections broken | owner changes | longest gap ms | until the last change s |\n|---|---|---|---|---|---|---|---|---|\n", title, wanted)
	var names []string
	for _, o := range all {
		if !slices.Contains(names, o.Name) {
			names = append(names, o.Name)
		}
	}
	for _, name := range names {
		times, failed, sent, broken, held, changes, gap, moved := 0, 0, 0, 0, 0, 0, 0.0, time.Duration(0)
		reset, plainFailed, plainSent := 0, 0, 0
		for _, o := range all {
			if o.Name != name {
				continue
			}
			f, s := o.Failed()
			times, failed, sent, broken, held, changes = times+1, failed+f, sent+s, broken+o.Broken(), held+holds, changes+len(o.Changes)
			moved = max(moved, o.Moved)
			reset += o.Reset()
			if o.Plain != nil {
				plainFailed, plainSent = plainFailed+o.Plain.Failed, plainSent+o.Plain.Sent
			}
			for _, rep := range o.Reports {
				gap = max(gap, rep.LongestGapMs)
			}
		}
		p("| %s | %d | %d of %d | %d | %d of %d | %d of %d | %d | %.0f | %.1f |\n", name, times, failed, sent, reset, plainFailed, plainSent, broken, held, changes, gap, moved.Seconds())
	}
	p("\n")
}

func (r *Report) splits(p printer) {
	if len(r.Splits) == 0 {
		return
	}
	p("## Partitions\n\nOf four nodes, one or two (the first address's owner among them) are cut off; clients reach all. Nodes cut off from\n"+
		"their peers by the network may each answer on their own side; among nodes that see each other one answer is wanted, and one in\n"+
		"all at most %s after the heal.\n\n| cut off | from | two answers among nodes that see each other | answered on both sides | answered by nobody | owner changes | last wrong answer after the heal |\n|---|---|---|---|---|---|---|\n", healLimit)
	for _, s := range r.Splits {
		p("| %d of 4 | %s | %d | %d | %d | %d | %.2f s |\n", len(s.Nodes), s.From, len(s.Faults), s.Doubled, s.Silent, len(s.Changes), s.Healed.Seconds())
	}
	p("\n")
}
