// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// ringSize is how many addresses the benchmarks give back and take again in turn.
const ringSize = 4096

// rig is a ledger in a steady state: ringSize addresses spread over the used part are
// held by as many Services, the rest of the used part is blocked in the index alone,
// because nobody has the memory, nor an API server the claims, for a full /8.
type rig struct {
	set  *Set
	l    *Ledger
	reqs []Request
	hold []Holding
	addr []netip.Addr
}

func benchService(i int) Tenant {
	name := "web-" + strconv.Itoa(i)
	return Tenant{
		Service: loadbalancer.ServiceKey{Namespace: "ns-" + strconv.Itoa(i%64), Name: name},
		UID:     loadbalancer.ServiceUID("uid-" + name), Ports: []Port{{"TCP", 80}, {"TCP", 443}},
	}
}

func newRig(specs []Spec, family Family) *rig {
	g := &rig{set: Compile(specs, nil), l: NewLedger()}
	g.l.SetPools(g.set)
	for i := range ringSize {
		svc := benchService(i)
		g.reqs = append(g.reqs, Request{Service: svc.Service, UID: svc.UID, Families: []Family{family}, Ports: svc.Ports})
		g.hold = append(g.hold, Holding{Tenants: []Tenant{svc}})
	}
	return g
}

// take holds an address for the next Service of the ring.
func (g *rig) take(a netip.Addr) {
	g.l.Hold(a, g.hold[len(g.addr)])
	g.addr = append(g.addr, a)
}

// cpuTime is the processor time of this process so far: unlike the clock it does not
// count what others do on a shared machine.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measure starts a measurement; the function that it returns ends it and reports the
// processor time of one operation.
func measure(b *testing.B) func() {
	b.Helper()
	b.ReportAllocs()
	b.ResetTimer()
	start := cpuTime(b)
	return func() {
		b.Helper()
		b.ReportMetric(float64(cpuTime(b)-start)/float64(b.N), "cpu-ns/op")
	}
}

// run measures one release and one allocation.
func (g *rig) run(b *testing.B) {
	b.Helper()
	defer measure(b)()
	for i := 0; b.Loop(); i = (i + 1) % ringSize {
		if err := g.step(i); err != nil {
			b.Fatal(err)
		}
	}
}

func (g *rig) step(i int) *Error {
	g.l.Release(g.addr[i])
	got, err := Allocate(g.set, g.l, &g.reqs[i])
	if err != nil {
		return err
	}
	g.addr[i] = got[0].Addr
	g.l.Hold(got[0].Addr, g.hold[i])
	return nil
}

// BenchmarkAllocateRelease is one release of an address somewhere in the used part and
// one allocation, in a pool of 2^24 and one of 2^64 addresses.
func BenchmarkAllocateRelease(b *testing.B) {
	for _, size := range []struct {
		prefix string
		family Family
	}{{"10.0.0.0/8", IPv4}, {"2001:db8::/64", IPv6}} {
		for _, fill := range []float64{0.01, 0.5, 0.999} {
			for _, how := range []string{"sequential", "random"} {
				name := fmt.Sprintf("pool=%s/fill=%g%%/%s", netip.MustParsePrefix(size.prefix), 100*fill, how)
				b.Run(name, func(b *testing.B) {
					g := newRig([]Spec{{Name: "p", Addresses: []string{size.prefix}, AutoAssign: true}}, size.family)
					random := rand.New(rand.NewPCG(1, 2))
					g.fill(size.family, fill, how == "random", random)
					g.run(b)
				})
			}
		}
	}
}

// fill uses a part of the pool: its low end, or at random. At random it draws every
// address of a /8, and of a /64 a quarter million blocks and as many single addresses.
func (g *rig) fill(f Family, part float64, random bool, r *rand.Rand) {
	p := g.set.pools[0]
	base, bits := keyOf(p.intervals[0].From), 24
	if f == IPv6 {
		bits = 64
	}
	at := func(offset uint64) key { return key{base.hi, base.lo + offset} }
	used := uint64(part * float64(uint64(1)<<(bits-1)) * 2)
	x := g.l.books[0].open[slot(f)]
	if !random {
		for i := range uint64(ringSize) {
			g.take(at(used / ringSize * i).addr(f))
		}
		x.block(at(0), at(used-1))
		return
	}
	for len(g.addr) < ringSize {
		if a := at(r.Uint64() >> (64 - bits)).addr(f); r.Float64() < part {
			if _, held := g.l.Holding(a); !held {
				g.take(a)
			}
		}
	}
	if f == IPv4 {
		for i := range uint64(1) << bits {
			if r.Float64() < part {
				x.block(at(i), at(i))
			}
		}
		return
	}
	for i := range uint64(1) << 18 {
		if r.Float64() < part {
			x.block(at(i<<46), at(i<<46|1<<46-1))
		}
		one := at(r.Uint64())
		x.block(one, one)
	}
}

// BenchmarkAllocateReleaseAvoidBuggy has a /8 that is full but for its 131,072 avoided
// addresses and those of the ring.
func BenchmarkAllocateReleaseAvoidBuggy(b *testing.B) {
	g := newRig([]Spec{{Name: "p", Addresses: []string{"10.0.0.0/8"}, AutoAssign: true, AvoidBuggyIPs: true}}, IPv4)
	for i := range ringSize {
		g.take(netip.AddrFrom4([4]byte{10, byte(i >> 4), byte(i << 4), 7}))
	}
	g.l.books[0].open[0].block(keyOf(g.set.pools[0].intervals[0].From), keyOf(g.set.pools[0].intervals[0].To))
	g.run(b)
}

// BenchmarkAllocateReleaseExcluded has a /8 of which half is excluded in 64 ranges and
// the rest is full but for the ring.
func BenchmarkAllocateReleaseExcluded(b *testing.B) {
	spec := Spec{Name: "p", Addresses: []string{"10.0.0.0/8"}, AutoAssign: true}
	for i := range 64 {
		spec.Excluded = append(spec.Excluded, fmt.Sprintf("10.%d.0.0/15", 4*i))
	}
	g := newRig([]Spec{spec}, IPv4)
	for i := range ringSize {
		g.take(netip.AddrFrom4([4]byte{10, byte(i)&^3 + 2, byte(i >> 8), byte(i)}))
	}
	g.l.books[0].open[0].block(keyOf(g.set.pools[0].intervals[0].From), keyOf(g.set.pools[0].intervals[0].To))
	g.run(b)
}

// BenchmarkAllocateReleaseManyPools has 1,000 pools that are full but for the ring: for
// everybody, or each for one namespace.
func BenchmarkAllocateReleaseManyPools(b *testing.B) {
	for _, how := range []string{"open", "by namespace"} {
		b.Run(how, func(b *testing.B) {
			var specs []Spec
			for i := range 1000 {
				s := Spec{Name: fmt.Sprintf("p%03d", i), Addresses: []string{fmt.Sprintf("10.%d.%d.0/24", i/250, i%250)}, AutoAssign: true}
				if how != "open" {
					s.Allocation = &Allocation{Namespaces: []string{"ns-" + strconv.Itoa(i%64)}}
				}
				specs = append(specs, s)
			}
			g := newRig(specs, IPv4)
			for i := range ringSize {
				// Pools i%64+64k serve namespace i%64, from which Service i is.
				n := i%64 + 64*(i/64%15)
				g.take(netip.AddrFrom4([4]byte{10, byte(n / 250), byte(n % 250), byte(i / 960)}))
			}
			for i, p := range g.set.pools {
				g.l.books[i].open[0].block(keyOf(p.intervals[0].From), keyOf(p.intervals[0].To))
			}
			g.l.makeRoom()
			g.run(b)
		})
	}
}

// BenchmarkShareJoin is one Service's joining an address that another has, and its
// leaving: with 4,096 addresses in use under keys of their own, or all under one key,
// where the ports that it needs are free on all of them or on the last alone.
func BenchmarkShareJoin(b *testing.B) {
	for _, how := range []string{"keys of their own", "one key", "one key, free on the last"} {
		b.Run(how, func(b *testing.B) {
			g := newRig([]Spec{{Name: "p", Addresses: []string{"10.0.0.0/8"}, AutoAssign: true}}, IPv4)
			joiners := make([]Request, ringSize)
			shared := make([]Holding, ringSize)
			for i := range ringSize {
				key := "key"
				if how == "keys of their own" {
					key = "key-" + strconv.Itoa(i)
				}
				j := Tenant{Service: loadbalancer.ServiceKey{Namespace: "ns", Name: "j" + strconv.Itoa(i)}, UID: loadbalancer.ServiceUID("j" + strconv.Itoa(i)), Ports: []Port{{"UDP", 53}, {"TCP", 53}}}
				joiners[i] = Request{Service: j.Service, UID: j.UID, Families: []Family{IPv4}, SharingKey: key, Ports: j.Ports}
				if how == "one key, free on the last" && i < ringSize-1 {
					g.hold[i].Tenants[0].Ports = j.Ports
				}
				g.hold[i].SharingKey = key
				g.take(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
				last := g.hold[i].Tenants[0]
				shared[i] = Holding{SharingKey: key, Tenants: []Tenant{last, j}}
			}
			defer measure(b)()
			for i := 0; b.Loop(); i = (i + 1) % ringSize {
				if err := g.join(&joiners[i], shared[i]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func (g *rig) join(req *Request, with Holding) error {
	got, err := Allocate(g.set, g.l, req)
	if err != nil {
		return err
	}
	if got[0].Rule != RuleShared {
		return errors.New("not shared, but " + string(got[0].Rule))
	}
	before := g.l.held[got[0].Addr]
	g.l.Hold(got[0].Addr, with)
	g.l.Hold(got[0].Addr, before)
	return nil
}

// BenchmarkCompile compiles 1,000 pools beside the pod ranges of 1,000 nodes, and makes
// a ledger with 50,000 addresses follow when one of the pools has changed.
func BenchmarkCompile(b *testing.B) {
	var specs []Spec
	var ranges []ClusterRange
	for i := range 1000 {
		specs = append(specs, Spec{Name: fmt.Sprintf("p%03d", i), Addresses: []string{fmt.Sprintf("10.%d.%d.0/24", i/250, i%250)}, AutoAssign: true})
		p := netip.MustParsePrefix(fmt.Sprintf("172.%d.%d.0/24", 16+i/250, i%250))
		ranges = append(ranges, ClusterRange{Interval: Interval{From: p.Addr(), To: lastOf(p)}, Object: fmt.Sprintf("node %d", i)})
	}
	b.Run("compile", func(b *testing.B) {
		defer measure(b)()
		for b.Loop() {
			Compile(specs, ranges)
		}
	})
	b.Run("follow", func(b *testing.B) {
		l := NewLedger()
		l.SetPools(Compile(specs, ranges))
		for i := range 50_000 {
			l.Hold(netip.AddrFrom4([4]byte{10, byte(i / 250 / 250), byte(i / 250 % 250), byte(i % 250)}), Holding{Tenants: []Tenant{benchService(i)}})
		}
		specs[0].AvoidBuggyIPs = true
		changed := Compile(specs, ranges)
		specs[0].AvoidBuggyIPs = false
		back := Compile(specs, ranges)
		defer measure(b)()
		for b.Loop() {
			l.SetPools(changed)
			l.SetPools(back)
		}
	})
}

// BenchmarkFill is a restart: 50,000 claims are read into an empty ledger.
func BenchmarkFill(b *testing.B) {
	set := Compile([]Spec{{Name: "p", Addresses: []string{"10.0.0.0/8"}, AutoAssign: true}}, nil)
	holdings := make([]Holding, 50_000)
	for i := range holdings {
		holdings[i].Tenants = []Tenant{benchService(i)}
	}
	defer measure(b)()
	for b.Loop() {
		l := NewLedger()
		l.SetPools(set)
		for i, h := range holdings {
			l.Hold(key{lo: 10<<24 + uint64(i)}.addr(IPv4), h)
		}
	}
}
