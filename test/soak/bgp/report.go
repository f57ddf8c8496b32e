// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"fmt"
	"strings"

	"github.com/fairlead-lb/fairlead/test/bench/bgp/field"
)

const text = `Three node agents (real processes with the shipped arguments, each in a network namespace of its own on one bridge) speak with FRR 8 (external) and BIRD 2 (internal); a client
is behind FRR, which chooses among next hops by ports too. *Power cuts*: 24 flows (UDP), each asked every 10 ms, which nodes answer themselves; the blackout is the longest gap between
two answers on a flow of the node that was cut, whose port of the switch goes down and whose agent is killed at once, while FRR's own link stays up. *Streams*: %d new connections a second
(TCP, one request each, 2 s at most) and %d that stay open with a request every 100 ms, to one pod that every node forwards to without a state of its own: what fails is the fault of routes. A packet that is
lost is sent again after 200 ms (1 s if it was the first of its connection), so the segments that were sent again tell more than failures; those of the row where nothing happens are the machine's own. What a
data plane does with a connection that a router moves to another node is not measured here.
`

// Markdown shows the report.
func (r *Report) Markdown(c *Config) string {
	var b strings.Builder
	fmt.Fprintf(&b, text, c.Rate, held)
	b.WriteString("\n| what | times | median (minimum–maximum) | wanted | verdict | took s |\n|---|---|---|---|---|---|\n")
	for _, row := range r.Rows {
		verdict := "held"
		if len(row.Faults) > 0 {
			verdict = "**failed**"
		}
		figure := "–"
		if len(row.Values) > 0 {
			figure = field.NewStat(row.Values).String() + " " + row.Unit
		}
		fmt.Fprintf(&b, "| %s | %d of %d | %s | %s | %s | %.0f |\n", row.Name, row.Times, row.Wanted, figure, row.Want, verdict, row.Took.Seconds())
	}
	b.WriteString("\n")
	for _, row := range r.Rows {
		if row.Said != "" {
			fmt.Fprintf(&b, "- %s: %s\n", row.Name, row.Said)
		}
	}
	fmt.Fprintf(&b, "\nElapsed: %.0f s.\n", r.Elapsed.Seconds())
	return b.String()
}

// Faults are the rows that did not hold.
func (r *Report) Faults() []string {
	var out []string
	for _, row := range r.Rows {
		for _, f := range row.Faults {
			out = append(out, row.Name+": "+f)
		}
	}
	return out
}
