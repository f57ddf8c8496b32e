// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// table writes rows of one column per value.
type table struct {
	b    strings.Builder
	cols int
}

func (t *table) row(name string, cell func(i int) string) {
	_, _ = fmt.Fprintf(&t.b, "| %s |", name)
	for i := range t.cols {
		_, _ = fmt.Fprintf(&t.b, " %s |", cell(i))
	}
	t.b.WriteString("\n")
}

// rule ends the heading.
func (t *table) rule() { t.b.WriteString("|" + strings.Repeat("---|", t.cols+1) + "\n") }

const rolloutText = `
Three node agents (real processes with the shipped arguments, each in its own network namespace with eth0 on one Linux bridge), a real etcd and
kube-apiserver, the shipped controller; no kubelet and no kube-proxy. 16 clients POST Services (IPv4, one port, no node ports) as fast as they are answered;
a client on the bridge asks by ARP for each address that a watch shows, every 250 ms until it is answered. **Everything shares the machine**, API server
and measuring client too, so that these are figures of the machine. Each column starts where the one before ended.
`

// metalLBRollout was measured on a machine of the same kind by the same method.
const metalLBRollout = `
MetalLB (main of July 2026, layer 2, native mode), measured before on a like machine by the same method, **not in this run**:

| | 0 → 1000 | 1000 → 5000 |
|---|---|---|
| all have an address after s | 30.1 | 174.7 |
| **all answer ARP after s** | 30.1 | 174.7 |
| address → ARP answer, p50 / p99 / max ms | 12 / 270 / 310 | 15 / 300 / 1050 |
| CPU s, controller / each speaker | 5.25 / 4.3–4.4 | 39.0 / 18.5–18.8 |
| announcements | 10,346 | 43,654 |
| idle minute: memory MiB, controller / speaker | 77 / 89–91 | 126 / 157–159 |
| idle minute: CPU s, controller / speaker | 0.03 / 0.23 | 0.04 / 0.24–0.30 |
`

// Markdown shows the result for people.
func (r *Rollout) Markdown() string {
	t := &table{cols: len(r.Growths)}
	g := func(i int) *Growth { return &r.Growths[i] }
	t.row("Services", func(i int) string { return fmt.Sprintf("%d → %d", g(i).From, g(i).To) })
	t.rule()
	t.row("all POSTs answered after s", func(i int) string { return short(g(i).PostedSeconds) })
	t.row("all have an address after s", func(i int) string { return short(g(i).AddressSeconds) })
	t.row("**all answer ARP after s**", func(i int) string { return "**" + short(g(i).AnsweredSeconds) + "**" })
	t.row("POST → address, p50 / p99 / max ms", func(i int) string { return three(g(i).ToAddressMs) })
	t.row("address → ARP answer, p50 / p99 / max ms", func(i int) string { return three(g(i).ToAnswerMs) })
	t.row("CPU s, controller / each agent", func(i int) string {
		return fmt.Sprintf("%s / %s–%s", short(g(i).Busy.ControllerCPU), short(g(i).Busy.AgentCPU.Min), short(g(i).Busy.AgentCPU.Max))
	})
	t.row("announcements until then", func(i int) string { return fmt.Sprint(g(i).Announcements) })
	t.row("idle minute: memory MiB, controller / agent", func(i int) string {
		return fmt.Sprintf("%s / %s–%s", short(g(i).Idle.ControllerMiB), short(g(i).Idle.AgentMiB.Min), short(g(i).Idle.AgentMiB.Max))
	})
	t.row("idle minute: CPU s, controller / agent", func(i int) string {
		return fmt.Sprintf("%s / %s–%s", short(g(i).Idle.ControllerCPU), short(g(i).Idle.AgentCPU.Min), short(g(i).Idle.AgentCPU.Max))
	})
	t.row("idle minute: gossip per node, packets/s / bytes/s", func(i int) string {
		return fmt.Sprintf("%s / %s", short(g(i).GossipPackets), short(g(i).GossipBytes))
	})
	text := r.markdown("rollout on layer 2") + rolloutText
	if len(r.Growths) > 0 {
		text += "\n" + t.b.String() + "\n" + g(0).writes() + metalLBRollout
	}
	return text + r.Placement.markdown()
}

// writes lists how many writes of what a Service costs.
func (g *Growth) writes() string {
	parts := make([]string, 0, len(g.Writes))
	for _, name := range slices.Sorted(maps.Keys(g.Writes)) {
		parts = append(parts, fmt.Sprintf("%s %.2f", name, g.Writes[name]))
	}
	return fmt.Sprintf("Writes to the API server per Service, by everybody, %d → %d: %s.\n", g.From, g.To, strings.Join(parts, "; "))
}

func three(s Stat) string { return short(s.P50) + " / " + short(s.P99) + " / " + short(s.Max) }

func (p *Placement) markdown() string {
	if p == nil {
		return ""
	}
	return fmt.Sprintf(`
## Who has them

%d Services on three nodes: %v, **most to least %.2f**. A fourth node came: **%d moved**. A node with %d was removed (Node deleted, agent ended):
%d that were not its own moved, %d were not answered afterwards, and no address was silent for longer than %s ms (each asked for ten times a second, so that
100 ms are no silence).
`, placed, p.VIPs, p.Ratio, p.MovedByNewNode, p.Removed, p.MovedOthers, p.Unanswered, short(p.LongestGapMs))
}
