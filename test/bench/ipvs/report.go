// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"fmt"
	"strings"
)

// Markdown is the result for people.
func (r *Result) Markdown() string {
	var b strings.Builder
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(&b, format+"\n", args...) } // cannot fail
	say("# Benchmark: the IPVS data plane, %s\n", r.Date[:10])
	say("%s; %s.\n", r.Date, r.Machine)
	where := "on this machine's kernel"
	if r.Emulated {
		where = "in a virtual machine whose processors are emulated: times are some ten times those of real hardware and say only how the rows compare; numbers of messages are exact"
	}
	say("Measured on Linux %s, %s.\n", r.Kernel, where)
	if len(r.Programming) > 0 {
		p := r.Programming[0]
		say("## Programming\n")
		say("%d Services with three endpoints each: %d virtual servers with %d real ones. Fairlead has one for clients outside and one for those within "+
			"the cluster per Service, kube-proxy one for the cluster address and one for the load balancer's. Both are given the objects without an API server in "+
			"the way: Fairlead's agent the input of its plan, kube-proxy a list and watch from memory.\n", p.Services, p.VirtualServers, p.RealServers)
		say("Requests are datagrams to the kernel by netlink, counted by the kernel (nlmon); IPVS and other generic ones carry one change each, netfilter ones a " +
			"transaction of any size. Work is the time of programming, as each measures itself, CPU that of the program and of those that it ran (nft, ipset, iptables); peak is the program's own memory.\n")
		say("| | requests | of IPVS | of netfilter | netlink KiB | work ms | CPU ms | memory MiB | peak MiB |")
		say("|---|---|---|---|---|---|---|---|---|")
		for _, p := range r.Programming {
			p.row(say, "from nothing", &p.Full)
			p.row(say, "one endpoint replaced", &p.Change)
			p.row(say, "a look each second", p.Look)
			p.row(say, "the table emptied by somebody: repair", p.Flushed)
			p.row(say, "start, everything there", p.Restart)
		}
	}
	if len(r.Paths) > 0 {
		say("\n## What clients get\n")
		say("Three nodes, two pods of which one is on the node that is asked; %d clients on the network ask it by TCP for a line, in %d rounds, each way in turn. "+
			"Client, nodes and pods share the machine's processors.\n", clients, roundsEach)
		say("| kube-proxy's mode | way | new connections/s | p50 ms | p99 ms | failed | requests/s on kept connections | p50 ms | p99 ms | failed |")
		say("|---|---|---|---|---|---|---|---|---|---|")
		for i := range r.Paths {
			p := &r.Paths[i]
			say("| %s | %s | %.0f | %.2f | %.2f | %d | %.0f | %.2f | %.2f | %d |", p.Proxy, p.Way,
				p.Fresh.Rate, p.Fresh.P50Ms, p.Fresh.P99Ms, p.Fresh.Failed, p.Kept.Rate, p.Kept.P50Ms, p.Kept.P99Ms, p.Kept.Failed)
		}
	}
	return b.String()
}

func (p *Programming) row(say func(string, ...any), what string, c *Costs) {
	if c == nil {
		return
	}
	say("| %s: %s | %d | %d | %d | %d | %.0f | %.0f | %.0f | %.0f |", p.Name, what,
		c.Requests, c.Generic, c.Netfilter, c.Bytes>>10, c.WorkMs, c.CPUMs, c.RSSMiB, c.PeakMiB)
}
