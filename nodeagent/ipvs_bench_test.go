// SPDX-License-Identifier: Apache-2.0

//go:build kernel && ipvs

package nodeagent

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/metrics"
	"github.com/fairlead-lb/fairlead/test/bench/ipvs/nlmeter"
)

// benchServices is how many Services BenchmarkIPVS has, unless FAIRLEAD_BENCH_SERVICES says
// otherwise: each has a virtual server for clients outside and one for those within.
const benchServices = 5000

// BenchmarkIPVS programs the kernel of this network namespace from plans, with all that
// the agent does for it: what is not measured is the way from the API to the plan's input.
// `make bench BENCH=ipvs` runs it once (-benchtime=1x).
func BenchmarkIPVS(b *testing.B) {
	services := benchServices
	if s := os.Getenv("FAIRLEAD_BENCH_SERVICES"); s != "" {
		var err error
		if services, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	p := newProgrammer(b, services)
	b.Run("full", func(b *testing.B) {
		b.ReportMetric(float64(len(p.plan().VirtualServers)), "servers")
		p.measure(b, func() {})
		p.verify(b, 2*services, 6*services)
	})
	b.Run("one-endpoint", func(b *testing.B) {
		p.measure(b, func() { p.replaceEndpoint() })
	})
	b.Run("nothing", func(b *testing.B) { p.measure(b, func() {}) })
	if err := p.f.repair(b.Context()); err != nil { // the first look after a change reads more
		b.Fatal(err)
	}
	b.Run("look", func(b *testing.B) { p.measureRepair(b, func() {}) })
	b.Run("flushed", func(b *testing.B) {
		p.measureRepair(b, func() { p.flush(b) })
		p.verify(b, 2*services, 6*services)
	})
	b.Run("restart", func(b *testing.B) {
		p.forget(b)
		p.measure(b, func() {})
		p.verify(b, 2*services, 6*services)
	})
	if err := p.f.remove(b.Context()); err != nil {
		b.Error(err)
	}
}

// programmer is the data plane of an agent without its API.
type programmer struct {
	k        *kernel.Kernel
	table    *kernel.IPVS
	meter    *nlmeter.Meter
	snapshot plan.Snapshot
	memory   plan.Memory
	f        *forwarder
	changes  int
}

func newProgrammer(b *testing.B, services int) *programmer {
	b.Helper()
	p := &programmer{snapshot: benchSnapshot(services)}
	var err error
	if p.k, err = kernel.New(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(p.k.Close)
	if p.table, err = kernel.OpenIPVS(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(p.table.Close)
	if p.meter, err = nlmeter.Open(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := p.meter.Close(); err != nil {
			b.Error(err)
		}
	})
	p.forget(b)
	return p
}

// forget is what a restart of the agent does.
func (p *programmer) forget(b *testing.B) {
	b.Helper()
	m, err := metrics.New(prometheus.NewRegistry(), "v0")
	if err != nil {
		b.Fatal(err)
	}
	p.f = newForwarder("auto", connectPlane(p.k), m, func() {})
}

func (p *programmer) plan() loadbalancer.Forwarding { return p.memory.For(p.snapshot).Forwarding }

// benchSnapshot is a cluster as one of its nodes sees it.
func benchSnapshot(services int) plan.Snapshot {
	const nodes = 3
	s := plan.Snapshot{
		Self: "n0", Forwards: true,
		Records: make(map[loadbalancer.ServiceUID]loadbalancer.Record), Nodes: make(map[loadbalancer.NodeName]loadbalancer.Node),
		Endpoints: make(map[loadbalancer.ServiceKey]loadbalancer.Endpoints), Members: make(map[loadbalancer.NodeName]plan.Member),
	}
	for i := range nodes {
		name := loadbalancer.NodeName(fmt.Sprintf("n%d", i))
		s.Nodes[name] = loadbalancer.Node{Name: name, Ready: true, Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + i)})}}
		s.Members[name] = plan.Member{Known: true}
	}
	for i := range services {
		a := netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
		uid, key := loadbalancer.ServiceUID(a.String()), loadbalancer.ServiceKey{Namespace: "d", Name: fmt.Sprintf("svc-%05d", i)}
		s.Claims = append(s.Claims, loadbalancer.Claim{
			Name: loadbalancer.Group(a.String()), Group: loadbalancer.Group(a.String()), Addr: a, Services: []loadbalancer.ServiceUID{uid},
		})
		s.Records[uid] = loadbalancer.Record{
			UID: uid, Service: key, Addrs: []netip.Addr{a}, DataPlane: loadbalancer.IPVS,
			Ports: []loadbalancer.ServicePort{{Protocol: loadbalancer.TCP, Port: 80}},
		}
		var e loadbalancer.Endpoints
		for j := range nodes {
			e.Backends = append(e.Backends, backend(i, j, byte(16+j)))
		}
		s.Endpoints[key] = e
	}
	return s
}

func backend(service, node int, block byte) loadbalancer.Backend {
	return loadbalancer.Backend{
		Addr: netip.AddrFrom4([4]byte{172, block, byte(service >> 8), byte(service)}), Port: 8080, Protocol: loadbalancer.TCP,
		Node: loadbalancer.NodeName(fmt.Sprintf("n%d", node)), Weight: 1, Ready: true, Serving: true,
	}
}

// replaceEndpoint has a pod of another node's go and one come, in another Service each time.
func (p *programmer) replaceEndpoint() {
	p.changes++
	key := loadbalancer.ServiceKey{Namespace: "d", Name: fmt.Sprintf("svc-%05d", p.changes)}
	e := p.snapshot.Endpoints[key]
	e.Backends = slices.Clone(e.Backends)
	e.Backends[1] = backend(p.changes, 1, 30)
	p.snapshot.Endpoints[key] = e
}

// flush empties the table as a start of kube-proxy does.
func (p *programmer) flush(b *testing.B) {
	b.Helper()
	list, err := p.table.List()
	if err != nil {
		b.Fatal(err)
	}
	for i := range list {
		if err := p.table.DeleteServer(list[i].VirtualServerKey); err != nil {
			b.Fatal(err)
		}
	}
}

// measure plans and programs.
func (p *programmer) measure(b *testing.B, change func()) {
	b.Helper()
	p.run(b, change, func(ctx context.Context) error {
		if p.f.plane == nil {
			var err error
			if p.f.plane, err = p.f.d.open(ctx); err != nil {
				return err
			}
		}
		want := p.plan()
		err := p.f.apply(ctx, want)
		p.f.programmed, p.f.done.Forwarding = err == nil, want
		return err
	})
}

// measureRepair looks for what others did, and repairs it.
func (p *programmer) measureRepair(b *testing.B, change func()) {
	b.Helper()
	p.run(b, change, p.f.repair)
}

// run does something b.N times and reports the costs of one time. Processor time is that of
// this process and of the programs that it runs.
func (p *programmer) run(b *testing.B, change func(), do func(context.Context) error) {
	b.Helper()
	var counts nlmeter.Counts
	var cpu, wall time.Duration
	for range b.N {
		change()
		before := p.read(b)
		began, cpuBefore := time.Now(), cpuTime(b)
		if err := do(b.Context()); err != nil {
			b.Fatal(err)
		}
		wall += time.Since(began)
		cpu += cpuTime(b) - cpuBefore
		c := p.read(b).Sub(before)
		counts.Requests += c.Requests
		counts.Generic += c.Generic
		counts.Netfilter += c.Netfilter
		counts.Bytes += c.Bytes
	}
	n := float64(b.N)
	b.ReportMetric(float64(counts.Requests)/n, "requests")
	b.ReportMetric(float64(counts.Generic)/n, "generic")
	b.ReportMetric(float64(counts.Netfilter)/n, "netfilter")
	b.ReportMetric(float64(counts.Bytes)/n, "netlink-B")
	b.ReportMetric(float64(wall)/n/1e6, "ms")
	b.ReportMetric(float64(cpu)/n/1e6, "cpu-ms")
	runtime.GC()
	b.ReportMetric(procStatus(b, "VmRSS"), "rss-MiB")
	b.ReportMetric(procStatus(b, "VmHWM"), "peak-MiB")
}

func (p *programmer) read(b *testing.B) nlmeter.Counts {
	b.Helper()
	c, err := p.meter.Read()
	if err != nil {
		b.Fatal(err)
	}
	return c
}

func (p *programmer) verify(b *testing.B, servers, reals int) {
	b.Helper()
	list, err := p.table.List()
	if err != nil {
		b.Fatal(err)
	}
	have := 0
	for i := range list {
		for _, r := range list[i].Reals {
			if r.Weight > 0 {
				have++
			}
		}
	}
	if len(list) != servers || have != reals {
		b.Fatalf("%d virtual servers with %d real ones, want %d with %d", len(list), have, servers, reals)
	}
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var out time.Duration
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if err := unix.Getrusage(who, &u); err != nil {
			b.Fatal(err)
		}
		out += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return out
}

// procStatus reads a size in MiB from /proc/self/status.
func procStatus(b *testing.B, field string) float64 {
	b.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == field+":" {
			kib, err := strconv.ParseFloat(f[1], 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib / 1024
		}
	}
	b.Fatalf("no %s", field)
	return 0
}
