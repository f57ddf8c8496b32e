// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/fairlead-lb/fairlead/test/harness"
)

// Result of a run; parts that did not run are empty.
type Result struct {
	Benchmark string          `json:"benchmark"`
	Date      string          `json:"date"`
	Machine   harness.Machine `json:"machine"`
	Micro     []Micro         `json:"micro,omitempty"`
	Rollout   []Step          `json:"rollout,omitempty"`
	Lab       *LabResult      `json:"lab,omitempty"`
}

// metalLB are figures of MetalLB's main branch of July 2026 (7938d3f89) in native mode
// with layer 2, from a machine of the same kind: 2 cores, Linux 6.18, the same method.
const metalLB = `
MetalLB, measured before on a like machine, **not in this run** (main @ 7938d3f89 of July 2026; 3 speakers ran beside its controller,
this run has no agents, so only the controller's own figures can be compared):

| | 0 → 1,000 | 1,000 → 5,000 |
|---|---|---|
| all have an address after s | 30.1 | 174.7 |
| Services per second | 33 | 23 |
| from POST to address, p50 / p99 ms | 4,800 / 8,900 | 33,800 / 44,400 |
| CPU of the controller per new Service, ms | 5.3 | 9.8 |
| API requests per Service beyond the create, all writers, events included | 9.7 | 9.7 |
| memory of the controller MiB | 73 | 110 |
`

// Markdown shows a result for people.
func (r *Result) Markdown() string {
	var b strings.Builder
	m := r.Machine
	_, _ = fmt.Fprintf(&b, "# Benchmark: address allocation, %s\n\n%s; Linux %s, %s, %d cores, %d MiB, %s, commit %s.\n",
		strings.SplitN(r.Date, "T", 2)[0], r.Date, m.Kernel, m.Arch, m.Cores, m.MemoryMiB, m.Go, m.Commit)
	if len(r.Micro) > 0 {
		b.WriteString("\n## The allocator alone\n\nOne operation of AllocateRelease is one release and one allocation. ColdStart is a controller's start with 50,000 claims " +
			"to re-bind. The fastest of several runs on one processor.\n\n| benchmark | ns/op | CPU ns/op | B/op | allocs/op |\n|---|---|---|---|---|\n")
		for _, x := range r.Micro {
			_, _ = fmt.Fprintf(&b, "| %s | %.0f | %s | %d | %d |\n", x.Name, x.NsPerOp, cpuText(x.CPUNsPerOp), x.BytesPerOp, x.AllocsPerOp)
		}
	}
	if len(r.Rollout) > 0 {
		r.rollout(&b)
	}
	if r.Lab != nil {
		r.lab(&b)
	}
	return b.String()
}

// cpuText shows a time that may not be known.
func cpuText(ns float64) string {
	if ns == 0 {
		return "–"
	}
	return strconv.FormatFloat(ns, 'f', 0, 64)
}

// rollout shows the steps, then who wrote what in the first one.
func (r *Result) rollout(b *strings.Builder) {
	b.WriteString("\n## Services from apply to status\n\nA real etcd and kube-apiserver without nodes and agents, one controller with the arguments of the shipped manifest; " +
		"16 clients POST Services (IPv4, one port, no node ports) as fast as they are answered. Everything shares the machine, the clients too. Each column starts where the one before ended.\n\n")
	row := func(name string, cell func(*Step) string) {
		_, _ = fmt.Fprintf(b, "| %s |", name)
		for i := range r.Rollout {
			_, _ = fmt.Fprintf(b, " %s |", cell(&r.Rollout[i]))
		}
		b.WriteString("\n")
	}
	row("Services", func(s *Step) string { return fmt.Sprintf("%d → %d", s.From, s.To) })
	b.WriteString("|" + strings.Repeat("---|", len(r.Rollout)+1) + "\n")
	row("all POSTs answered after s", func(s *Step) string { return fmt.Sprintf("%.1f", s.PostedSeconds) })
	row("all have an address after s", func(s *Step) string { return fmt.Sprintf("%.1f", s.Seconds) })
	row("Services per second", func(s *Step) string { return fmt.Sprintf("%.1f", s.PerSecond) })
	row("from POST to address, p50 ms", func(s *Step) string { return fmt.Sprintf("%.0f", s.P50Ms) })
	row("… p99 ms", func(s *Step) string { return fmt.Sprintf("%.0f", s.P99Ms) })
	row("… maximum ms", func(s *Step) string { return fmt.Sprintf("%.0f", s.MaxMs) })
	row("**CPU of the controller per new Service, ms**", func(s *Step) string { return fmt.Sprintf("%.2f", s.CPUMsPerService) })
	row("memory of the controller, MiB", func(s *Step) string { return fmt.Sprint(s.MemoryMiB) })
	row("**object writes of the controller per new Service**", func(s *Step) string { return fmt.Sprintf("%.2f", s.ControllerWrites) })
	row("events of the controller per new Service", func(s *Step) string { return fmt.Sprintf("%.2f", s.EventWrites) })
	row("reads of the controller per new Service, without watches", func(s *Step) string { return fmt.Sprintf("%.2f", s.Reads) })
	b.WriteString("\nThe event recorder of client-go has one sender and drops what comes faster than it sends: where the API server is slower, more events per Service " +
		"are sent, and with them CPU time rises.\n")
	first := &r.Rollout[0]
	_, _ = fmt.Fprintf(b, "\nWho wrote what, %d → %d, from the API server's audit log (leases left out; the finalizer and the address are two patches of services/status; "+
		"the node agent's write of the owner is not in it, because there are no agents here: one more per Service in a cluster):\n\n"+
		"| writer | verb | resource | per Service | done | refused |\n|---|---|---|---|---|---|\n", first.From, first.To)
	for _, w := range first.Writes {
		_, _ = fmt.Fprintf(b, "| %s | %s | %s | %.3f | %d | %d |\n", w.Writer, w.Verb, w.Resource, w.PerService, w.Done, w.Refused)
	}
	b.WriteString("\nEvents per Service:")
	for _, name := range slices.Sorted(maps.Keys(first.Events)) {
		_, _ = fmt.Fprintf(b, " %s %.2f;", name, first.Events[name])
	}
	b.WriteString("\n")
	b.WriteString(metalLB)
}

// lab shows what was counted with nodes and agents.
func (r *Result) lab(b *strings.Builder) {
	_, _ = fmt.Fprintf(b, "\n## With nodes and agents\n\n%d Services applied at once by kubectl on a lab of 4 nodes: all have an address after %.1f s, all are announced after %.1f s. "+
		"**%.2f object writes per Service** (finalizer and address: services/status; claim, owner, record, record's status; pool's status).\n\n"+
		"| verb | resource | per Service | done |\n|---|---|---|---|\n", r.Lab.Services, r.Lab.AddressSeconds, r.Lab.AnnounceSeconds, r.Lab.ObjectWrites)
	for _, w := range r.Lab.Writes {
		_, _ = fmt.Fprintf(b, "| %s | %s | %.3f | %d |\n", w.Verb, w.Resource, w.PerService, w.Done)
	}
}
