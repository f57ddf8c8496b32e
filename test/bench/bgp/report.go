// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"fmt"
	"strings"

	"github.com/fairlead-lb/fairlead/test/bench/bgp/field"
)

const routesText = `
One node agent (a real process with the shipped arguments) with two peers: FRR 8 (external) and BIRD 2 (internal), each in a network namespace of its own. The
addresses are claims and records copied from one that the controller made: making Services would take the API server ten times as long, and an agent sees no
difference. *Told* begins with the write of a label that makes the BGPAdvertisement select the node, and ends when the last of the routes is in the router's
kernel (the table is read every 50 ms); *withdrawn* likewise. CPU is the agent's for both sessions together, API server and routers share the machine. UPDATEs
are as FRR counts them, octets as BIRD's host receives them, with IP and TCP headers. *One change* is the record of one address that goes or comes back while
all others are told: from the write to the API server until FRR's kernel has it (median, minimum–maximum of 20), CPU of the agent less what it takes while
nothing happens.
`

const cutsText = `
Three node agents, FRR (external, maximum-paths 16, choosing by ports too) and a client behind it. The client asks on 24 flows (UDP, ports that stay), each every
10 ms, and the nodes themselves answer. A node loses its power at a random moment: its port of the switch goes down and its agent is killed, and nobody tells FRR,
whose own link stays up. *Blackout* is the longest gap between two answers on a flow that reached this node; *noticed* is when FRR's kernel was without the node. *Others* are
flows through other nodes with a gap of more than 100 ms. A cut node gets power again before the next cut. Times are milliseconds: median (minimum–maximum).
`

// Markdown shows the result for people.
func (r *Result) Markdown() string {
	var b strings.Builder
	m := r.Machine
	fmt.Fprintf(&b, "# Benchmark: BGP, %.10s\n\n%s; Linux %s, %s, %d cores, %d MiB, %s, commit %s; load before it %s.\n",
		r.Date, r.Date, m.Kernel, m.Arch, m.Cores, m.MemoryMiB, m.Go, m.Commit, r.Load)
	for _, f := range r.Faults {
		b.WriteString("\n**Not measured to the end:**\n\n```\n" + f + "\n```\n")
	}
	if len(r.Routes) > 0 {
		b.WriteString("\n## Routes\n" + routesText + "\n")
		routesTable(&b, r.Routes)
	}
	switch {
	case len(r.MetalLB) > 0:
		fmt.Fprintf(&b, "\n## MetalLB's speaker, by the same method\n\n%s", fmt.Sprintf(metallbText, r.MetalLBVersion))
		b.WriteString("\n")
		routesTable(&b, r.MetalLB)
	case len(r.Routes) > 0:
		b.WriteString("\nMetalLB's speaker was not given (`-metallb-speaker PATH`) and not measured.\n")
	}
	if len(r.Cuts) > 0 {
		b.WriteString("\n## Power cuts\n" + cutsText + "\n| noticed by | cuts | **blackout** | noticed | others | all blackouts, ascending |\n|---|---|---|---|---|---|\n")
		for i := range r.Cuts {
			c := &r.Cuts[i]
			others := 0
			var all []string
			for j := range c.Cuts {
				others += c.Cuts[j].Others
			}
			for _, ms := range c.Blackouts() {
				all = append(all, fmt.Sprintf("%.0f", ms))
			}
			fmt.Fprintf(&b, "| %s | %d | **%s** | %s | %d | %s |\n", c.How, len(c.Cuts), c.Blackout, c.Noticed, others, strings.Join(all, " "))
		}
	}
	return b.String()
}

// routesTable has a column per number of routes.
func routesTable(b *strings.Builder, all []Routes) {
	row := func(name string, value func(r *Routes) string) {
		b.WriteString("| " + name + " |")
		for i := range all {
			b.WriteString(" " + value(&all[i]) + " |")
		}
		b.WriteString("\n")
	}
	row("routes", func(r *Routes) string { return fmt.Sprint(r.Routes) })
	b.WriteString("|---|" + strings.Repeat("---|", len(all)) + "\n")
	wave := func(name string, of func(r *Routes) *Wave) {
		row("**"+name+"**, in FRR's / BIRD's kernel after ms", func(r *Routes) string {
			return fmt.Sprintf("%.0f / %.0f", of(r).FRRMs, of(r).BIRDMs)
		})
		row("… CPU ms", func(r *Routes) string { return field.Short(of(r).CPUMs) })
		row("… UPDATEs / octets per session", func(r *Routes) string { return fmt.Sprintf("%d / %d", of(r).Updates, of(r).Octets) })
	}
	wave("told", func(r *Routes) *Wave { return &r.Told })
	wave("withdrawn", func(r *Routes) *Wave { return &r.Withdrawn })
	row("**one change** in FRR's kernel after ms", func(r *Routes) string { return r.One.Ms.String() })
	row("… CPU ms", func(r *Routes) string {
		if r.One.CPUMs <= 0 {
			return "not above idle"
		}
		return fmt.Sprintf("%.1f", r.One.CPUMs)
	})
	row("… UPDATEs / octets per session", func(r *Routes) string { return fmt.Sprintf("%.2f / %.0f", r.One.Updates, r.One.Octets) })
	row("resident MiB before / told / at most", func(r *Routes) string { return fmt.Sprintf("%.0f / %.0f / %.0f", r.IdleMiB, r.ToldMiB, r.PeakMiB) })
}
