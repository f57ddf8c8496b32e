// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"fmt"
	"strings"
)

const arpText = `
One node agent (a real process with the shipped arguments, in a network namespace with eth0 on a Linux bridge) announces all addresses; a client on the bridge
asks by broadcast (ARP) or solicited-node multicast (NDP) from a packet socket. *Latency*: %d requests for random addresses, one after another, until the
kernel stamps the answer's arrival. *Rate*: %d requests always open for %s; the client, the agent and the kernel share this machine's cores, so that the client
takes its part of every figure. *Kernel* is the same against the node's own address, for which its kernel answers, in the same run: what there is to gain.
`

// Markdown shows the result for people.
func (a *ARP) Markdown() string {
	var b strings.Builder
	b.WriteString(a.markdown("answers to ARP and NDP"))
	_, _ = fmt.Fprintf(&b, arpText, samples, window, floodTime)
	b.WriteString("\n| addresses | family | agent: p50 / p99 / max ms | lost | kernel: p50 / p99 / max ms | agent: answers/s | CPU µs per answer | kernel: answers/s | agent's memory MiB |\n" +
		"|---|---|---|---|---|---|---|---|---|\n")
	for i := range a.Answers {
		x := &a.Answers[i]
		_, _ = fmt.Fprintf(&b, "| %d | %s | %s | %d | %s | %.0f | %s | %.0f | %s |\n", x.VIPs, x.Family, three(x.Agent.Ms), x.Agent.Lost,
			three(x.Kernel.Ms), x.AgentRate.PerSecond, short(x.AgentRate.AgentMicros), x.KernelRate.PerSecond, short(x.MemoryMiB))
	}
	b.WriteString("\nMetalLB (main of July 2026), measured before on a like machine, **not in this run**: ARP 0.32–0.43 / 0.69–0.80 / 0.78–0.88 ms with 1,000 addresses, " +
		"0.89–1.07 / 2.5–6.9 / 8.0–13.5 ms with 5,000.\n")
	if j := a.Junk; j != nil {
		_, _ = fmt.Fprintf(&b, "\n## Under a flood\n\n%.0f frames a second for %s, half of them requests for other addresses, four tenths malformed ARP, one tenth claims of strangers to "+
			"addresses of Services (%d addresses announced): agent p50 / p99 / max **%s ms**, %d of %d lost; kernel %s ms. The agent took %.2f of a core; its memory went from %s to %s MiB.\n",
			j.PerSecond, junkTime, j.VIPs, three(j.Agent.Ms), j.Agent.Lost, junkSamples, three(j.Kernel.Ms), j.CPU, short(j.BeforeMiB), short(j.AfterMiB))
	}
	return b.String()
}
