// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"fmt"
	"strings"
)

const gossipText = `
Node agents (real processes with the shipped arguments, each in its own network namespace with eth0 on one Linux bridge), a real etcd and kube-apiserver,
the shipped controller, %d Services; **all of it on this machine**: with 50 nodes on two cores, agents wait for each other in a way that nodes with cores of their own do not.
*Traffic* is what one node sends when nothing happens, counted at its port of the bridge for %s, bytes without Ethernet headers: gossip is TCP and UDP on the gossip's port, pulse is unicast ARP and neighbour discovery,
probes and answers (the kernel's own among them). Values are median (minimum–maximum) over the nodes or runs.
`

// Markdown shows the result for people.
func (g *Gossip) Markdown() string {
	var b strings.Builder
	b.WriteString(g.markdown("gossip and detection"))
	_, _ = fmt.Fprintf(&b, gossipText, gossipVIPs, trafficTime)
	b.WriteString("\n| profile | nodes | gossip packets/s | gossip bytes/s | pulse packets/s | pulse bytes/s | CPU, thousandths of a core | memory MiB |\n|---|---|---|---|---|---|---|---|\n")
	for i := range g.Members {
		m := &g.Members[i]
		_, _ = fmt.Fprintf(&b, "| %s | %d | %s | %s | %s | %s | %s | %s |\n", m.Profile, m.Nodes, m.GossipPackets, m.GossipBytes, m.PulsePackets, m.PulseBytes, m.CPU, m.MiB)
	}
	b.WriteString("\n## A silent death\n\nA node's power is cut at a random moment. Milliseconds until: a pulse says that its kernel is silent (the heirs of its addresses watch it; the first and the last of them), the first, the median and the last " +
		"survivor lost it in the gossip, all its addresses are answered by others.\n\n" +
		"| profile | nodes | runs | pulse, first | last | gossip, first | median | last | all answered |\n|---|---|---|---|---|---|---|---|---|\n")
	for i := range g.Members {
		m := &g.Members[i]
		col := func(get func(*Death) float64) Stat {
			var v []float64
			for k := range m.Deaths {
				if x := get(&m.Deaths[k]); x > 0 {
					v = append(v, x)
				}
			}
			return newStat(v)
		}
		_, _ = fmt.Fprintf(&b, "| %s | %d | %d | %s | %s | %s | %s | %s | **%s** |\n", m.Profile, m.Nodes, len(m.Deaths), col(func(d *Death) float64 { return d.PulseMs }),
			col(func(d *Death) float64 { return d.LastPulseMs }),
			col(func(d *Death) float64 { return d.FirstMs }), col(func(d *Death) float64 { return d.MedianMs }), col(func(d *Death) float64 { return d.LastMs }),
			col(func(d *Death) float64 { return d.AnswerMs }))
	}
	b.WriteString("\n## Without processor time\n\nNobody dies. Every address is asked for by ARP ten times a second; counted until 10 s after the end: members that the gossip of some survivor lost, verdicts of a pulse, " +
		"changes of the node that answers, terms begun (also by the same node, to settle a dispute), requests answered, and the longest silence of any address.\n\n" +
		"| profile | nodes | what happens | lost in the gossip | pulse verdicts | **owner changes** | terms | answered | longest silence ms |\n|---|---|---|---|---|---|---|---|---|\n")
	for i := range g.Members {
		m := &g.Members[i]
		for _, s := range m.Starved {
			_, _ = fmt.Fprintf(&b, "| %s | %d | %s | %d | %d | **%d** | %d | %.2f %% | %s |\n", m.Profile, m.Nodes, s.Name, s.Deaths, s.Verdicts, s.OwnerChanges, s.Terms,
				100*float64(s.Answered)/float64(max(1, s.Asked)), short(s.LongestGapMs))
		}
	}
	return b.String()
}
