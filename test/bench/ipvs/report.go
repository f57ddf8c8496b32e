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
	say("%s; Linux %s, %s, %d cores, %d MiB, %s, commit %s.\n", r.Date, r.Machine.Kernel, r.Machine.Arch, r.Machine.Cores, r.Machine.MemoryMiB, r.Machine.Go, r.Machine.Commit)
	where := "on this machine's kernel"
	if r.Emulated {
		where = "in a virtual machine whose processors are emulated: times are some ten times those of real hardware and say only how the rows compare; numbers of messages are exact"
	}
	say("Measured on Linux %s, %s.\n", r.Kernel, where)
	if r.Failure != "" {
		say("**Failed:** %s\n", firstLine(r.Failure))
	}
	r.programming(say)
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

// programming is the first part: all Services with Fairlead, and fewer with both.
func (r *Result) programming(say func(string, ...any)) {
	ours, theirs := r.by(Name), r.by(proxyName)
	if len(ours) == 0 {
		return
	}
	say("## Programming\n")
	say("Each Service has three endpoints and makes two virtual servers with three real ones each. Fairlead has one for clients outside and one for those within " +
		"the cluster, kube-proxy one for the cluster address and one for the load balancer's. Both are given the objects without an API server in " +
		"the way: Fairlead's agent the input of its plan, kube-proxy a list and watch from memory. kube-proxy is given no ip6tables, so that it programs IPv4 alone.\n")
	say("Requests are datagrams to the kernel by netlink, counted by the kernel (nlmon); IPVS and other generic ones carry one change each, netfilter ones a " +
		"transaction of any size. Work is the time of programming, as each measures itself, CPU that of the program and of those that it ran (nft, ipset, iptables); peak is the program's own memory.\n")
	most := ours[len(ours)-1]
	say("%s with %d Services: %d virtual servers, %d real ones.\n", Name, most.Services, most.VirtualServers, most.RealServers)
	say("| | requests | of IPVS | of netfilter | netlink KiB | work ms | CPU ms | memory MiB | peak MiB |")
	say("|---|---|---|---|---|---|---|---|---|")
	row(say, "from nothing", &most.Full)
	row(say, "one endpoint replaced", &most.Change)
	row(say, "a look each second", most.Look)
	row(say, "the table emptied by somebody: repair", most.Flushed)
	row(say, "start, everything there", most.Restart)
	if len(theirs) == 0 {
		return
	}
	say("\nBeside %s, with the same Services in the same run; its figures are the second ones, × is how often Fairlead's they are.\n", proxyName)
	say("| Services | virtual servers | | requests | | × | work ms | | × | CPU ms | | × | peak MiB | |")
	say("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")
	for _, t := range theirs {
		for _, o := range ours {
			if o.Services == t.Services {
				beside(say, o, "from nothing", &o.Full, &t.Full)
				beside(say, o, "one endpoint replaced", &o.Change, &t.Change)
			}
		}
	}
	beyond(say, most.Services, theirs)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

func (r *Result) by(name string) []*Programming {
	var out []*Programming
	for _, p := range r.Programming {
		if p.Name == name {
			out = append(out, p)
		}
	}
	return out
}

func row(say func(string, ...any), what string, c *Costs) {
	if c == nil {
		return
	}
	say("| %s | %d | %d | %d | %d | %.0f | %.0f | %.0f | %.0f |", what,
		c.Requests, c.Generic, c.Netfilter, c.Bytes>>10, c.WorkMs, c.CPUMs, c.RSSMiB, c.PeakMiB)
}

func beside(say func(string, ...any), p *Programming, what string, ours, theirs *Costs) {
	times := func(theirs, ours float64) string {
		if ours <= 0 {
			return "–"
		}
		return fmt.Sprintf("%.1f", theirs/ours)
	}
	say("| %d | %d | %s | %d | %d | %s | %.0f | %.0f | %s | %.0f | %.0f | %s | %.0f | %.0f |", p.Services, p.VirtualServers, what,
		ours.Requests, theirs.Requests, times(float64(theirs.Requests), float64(ours.Requests)),
		ours.WorkMs, theirs.WorkMs, times(theirs.WorkMs, ours.WorkMs), ours.CPUMs, theirs.CPUMs, times(theirs.CPUMs, ours.CPUMs),
		ours.PeakMiB, theirs.PeakMiB)
}

// beyond says what one Service more costs kube-proxy, and what was not measured of it.
func beyond(say func(string, ...any), all int, theirs []*Programming) {
	few, many := theirs[0], theirs[len(theirs)-1]
	if more := float64(many.Services - few.Services); more > 0 {
		requests := (float64(many.Full.Requests) - float64(few.Full.Requests)) / more
		seconds := (many.Full.WorkMs - few.Full.WorkMs) / more / 1000
		say("\nBetween %d and %d Services, each one more costs kube-proxy %.1f requests and %.2f s from nothing.", few.Services, many.Services, requests, seconds)
		if many.Services < all {
			left := float64(all - many.Services)
			say("**With %d Services kube-proxy was not measured.** If each one further costs it as much, that is %.0f requests and %.1f h on this processor: "+
				"computed, not measured.", all, float64(many.Full.Requests)+left*requests, (many.Full.WorkMs/1000+left*seconds)/3600)
		}
	}
}
