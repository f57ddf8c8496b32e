// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/knftables"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel/kerneltest"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/metrics"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/surroundings"
)

// agent is a data plane over the kernel, as of an agent that has just started.
func (p *packets) agent(mode string) *forwarder {
	p.t.Helper()
	m, err := metrics.New(prometheus.NewRegistry(), "v0")
	if err != nil {
		p.t.Fatal(err)
	}
	return newForwarder(mode, planeDeps{
		open: func(context.Context) (*plane, error) {
			made := newPlane(p, p, p, packetNFT{p.nft, p})
			made.generation = p.NFTGeneration
			made.forget = func([]netip.Addr) (int, error) { return 0, nil }
			return made, nil
		},
		left: func(context.Context) (bool, error) {
			_, there, err := p.VIPLink()
			return there, err
		},
		look:  func(context.Context) surroundings.Report { return surroundings.Report{} },
		watch: func(ctx context.Context, _ func()) error { <-ctx.Done(); return nil },
	}, m, func() {})
}

// turn has the data plane do what is due, for some seconds.
func turn(t *testing.T, f *forwarder, seconds int) {
	t.Helper()
	for range seconds {
		f.step(t.Context(), time.Now())
		time.Sleep(sentinel) //nolint:forbidigo // a bubble's clock
	}
}

// service is one address and port of a plan.
type service struct {
	key loadbalancer.VirtualServerKey
	// ipvs: else it is kube-proxy's.
	ipvs bool
	// pods that serve it; elsewhere: only other nodes do.
	pods      int
	elsewhere bool
	scheduler string
	mark      uint32
}

// planOf makes of services what the planner does.
func (p *packets) planOf(services []service) loadbalancer.Forwarding {
	var f loadbalancer.Forwarding
	shared := make(map[netip.Addr]bool)
	for _, s := range services {
		shared[s.key.Addr] = shared[s.key.Addr] || !s.ipvs || s.key.Addr == p.node
	}
	for _, s := range services {
		if !s.ipvs {
			continue
		}
		if s.key.Addr != p.node && !slices.Contains(f.VIPs, s.key.Addr) {
			f.VIPs = append(f.VIPs, s.key.Addr)
		}
		f.Served = append(f.Served, loadbalancer.Served{
			Addr: s.key.Addr, Protocol: s.key.Protocol, Port: s.key.Port, Mark: s.mark, Masquerade: true, Foreign: shared[s.key.Addr],
		})
		inside := loadbalancer.VirtualServer{
			VirtualServerKey: loadbalancer.VirtualServerKey{Addr: netip.IPv4Unspecified(), Mark: s.mark}, Scheduler: s.scheduler,
		}
		for i := range s.pods {
			inside.Reals = append(inside.Reals, loadbalancer.RealServer{
				RealServerKey: loadbalancer.RealServerKey{Addr: netip.AddrFrom4([4]byte{10, 244, byte(s.mark), byte(i + 1)}), Port: 8080}, Weight: 1,
			})
		}
		f.VirtualServers = append(f.VirtualServers, inside)
		if !s.elsewhere {
			outside := inside
			outside.VirtualServerKey = s.key
			f.VirtualServers = append(f.VirtualServers, outside)
		}
	}
	key := func(v loadbalancer.VirtualServer) loadbalancer.VirtualServerKey { return v.VirtualServerKey }
	slices.SortFunc(f.VirtualServers, func(a, b loadbalancer.VirtualServer) int { return compareKeys(key(a), key(b)) })
	slices.SortFunc(f.Served, func(a, b loadbalancer.Served) int { return compareKeys(servedKey(a), servedKey(b)) })
	slices.SortFunc(f.VIPs, netip.Addr.Compare)
	return f
}

func compareKeys(a, b loadbalancer.VirtualServerKey) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Mark, b.Mark))
}

func tcp(addr string, port uint16) loadbalancer.VirtualServerKey {
	return loadbalancer.VirtualServerKey{Addr: netip.MustParseAddr(addr), Protocol: loadbalancer.TCP, Port: port}
}

func universe() []loadbalancer.VirtualServerKey {
	var out []loadbalancer.VirtualServerKey
	for _, a := range []string{"10.0.0.1", "10.0.0.200", "10.0.0.201", "10.0.0.202"} {
		for _, port := range []uint16{22, 80, 443} {
			out = append(out, tcp(a, port))
		}
	}
	return out
}

// randomServices gives some of the keys to Services.
func randomServices(r *rand.Rand) []service {
	var out []service
	for i, k := range universe() {
		if k.Port == 22 || r.IntN(2) == 0 {
			continue
		}
		s := service{key: k, ipvs: r.IntN(4) > 0, pods: r.IntN(4), elsewhere: r.IntN(5) == 0, scheduler: "rr", mark: 0x0fa00000 | uint32(i) | uint32(r.IntN(2))<<6}
		if r.IntN(3) == 0 {
			s.scheduler = "mh"
		}
		out = append(out, s)
	}
	return out
}

// served by IPVS with a pod on this node's list, by key.
func (p *packets) good(services []service) map[loadbalancer.VirtualServerKey]bool {
	out := make(map[loadbalancer.VirtualServerKey]bool)
	for _, s := range services {
		if s.ipvs && s.pods > 0 && !s.elsewhere {
			out[s.key] = true
		}
	}
	return out
}

func ipvsOf(services []service) map[netip.Addr]bool {
	out := make(map[netip.Addr]bool)
	for _, s := range services {
		if s.ipvs {
			out[s.key.Addr] = true
		}
	}
	return out
}

// expectUnseen has each operation from one plan to another be unseen by clients.
func (p *packets) expectUnseen(what string, before, after []service) {
	keys, was, will := universe(), p.good(before), p.good(after)
	addrsBefore, addrsAfter := ipvsOf(before), ipvsOf(after)
	p.look = func(op string) {
		for k, fate := range p.fates(keys) {
			switch {
			case p.crashed && shares(before, k.Addr) != shares(after, k.Addr):
				// Who of the two programmed what is there cannot be told.
			case was[k] && will[k]:
				if fate != toIPVS {
					p.t.Errorf("%s, after %s: %s:%d, which IPVS served and will, goes %s", what, op, k.Addr, k.Port, fate)
				}
			case p.kubeProxy[k] && (was[k] || p.leaves(before, k)) && (will[k] || p.leaves(after, k)):
				if fate != toKubeProxy && fate != toIPVS {
					p.t.Errorf("%s, after %s: %s:%d, which kube-proxy serves, goes %s", what, op, k.Addr, k.Port, fate)
				}
			case k.Port == 22 && k.Addr != p.node && addrsBefore[k.Addr] && addrsAfter[k.Addr] && !shares(before, k.Addr) && !shares(after, k.Addr):
				if fate != refused {
					p.t.Errorf("%s, after %s: %s:%d, which nobody serves, goes %s", what, op, k.Addr, k.Port, fate)
				}
			}
		}
	}
}

// leaves says whether Services leave a key to kube-proxy: it is one of its own, or there is
// no other reason to keep it from there.
func (p *packets) leaves(services []service, k loadbalancer.VirtualServerKey) bool {
	i := slices.IndexFunc(services, func(s service) bool { return s.key == k })
	return i >= 0 && !services[i].ipvs || i < 0 && (k.Addr == p.node || !ipvsOf(services)[k.Addr])
}

func shares(services []service, a netip.Addr) bool {
	return slices.ContainsFunc(services, func(s service) bool { return !s.ipvs && s.key.Addr == a })
}

// At no moment of any change is a connection refused or lost that kube-proxy or IPVS would
// have served, and whoever dies in between leaves nothing that the next run cannot put right
// as unseen.
func TestChangesAreUnseen(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			p := newPackets(t)
			f := p.agent(dataPlaneAuto)
			var before []service
			for round := range 6 {
				after := randomServices(r)
				for _, k := range universe() {
					p.kubeProxy[k] = k.Port != 22 && r.IntN(2) == 0 || slices.ContainsFunc(after, func(s service) bool { return !s.ipvs && s.key == k })
				}
				what := fmt.Sprintf("seed %d, change %d", seed, round)
				p.expectUnseen(what, before, after)
				p.steps, p.crashAt, p.crashed, p.log = 0, 0, false, nil
				if r.IntN(2) == 0 {
					p.crashAt, p.crashed = 1+r.IntN(25), true
				}
				want := wanted{Forwarding: p.planOf(after), ready: true}
				f.Want(want)
				turn(t, f, 2)
				if p.crashAt > 0 {
					p.crashAt = 0
					f = p.agent(dataPlaneAuto)
					f.Want(want)
				}
				turn(t, f, 4)
				p.expectSettled(what, after)
				p.look = func(string) {}
				p.disturb(r)
				turn(t, f, 4)
				p.expectSettled(what+", put back", after)
				if t.Failed() {
					t.Logf("from %v\nto %v\n%s", before, after, strings.Join(p.log, "\n"))
					return
				}
				before = after
			}
			p.expectGone(f, before)
		})
		if t.Failed() {
			return
		}
	}
}

// expectSettled expects that all is as for a node that begins now.
func (p *packets) expectSettled(what string, services []service) {
	p.t.Helper()
	for k, fate := range p.fates(universe()) {
		i := slices.IndexFunc(services, func(s service) bool { return s.key == k && s.ipvs })
		want := ""
		switch {
		case i >= 0 && services[i].elsewhere:
			want = waiting
		case i >= 0 && services[i].pods == 0:
			want = noPod
		case i >= 0:
			want = toIPVS
		}
		if want != "" && fate != want {
			p.t.Errorf("%s, in the end: %s:%d goes %s, want %s", what, k.Addr, k.Port, fate, want)
		}
		if fate == unmarked {
			p.t.Errorf("%s, in the end: %s:%d goes %s", what, k.Addr, k.Port, fate)
		}
	}
}

// disturb does what other programs do.
func (p *packets) disturb(r *rand.Rand) {
	if r.IntN(2) == 0 {
		p.Flush()
	}
	if r.IntN(2) == 0 {
		p.DropLink()
	}
	if r.IntN(2) == 0 && p.nft.Table != nil {
		tx := p.nft.NewTransaction()
		tx.Delete(&knftables.Table{})
		if err := p.nft.Run(p.t.Context(), tx); err != nil {
			p.t.Fatal(err)
		}
		p.ChangeNFT()
	}
}

// expectGone has the agent leave unseen: kube-proxy serves all by then.
func (p *packets) expectGone(f *forwarder, services []service) {
	p.t.Helper()
	for _, k := range universe() {
		p.kubeProxy[k] = true
	}
	p.expectUnseen("leaving", services, nil)
	f.leaving = make(chan struct{})
	if !f.step(p.t.Context(), time.Now()) {
		p.t.Error("it did not leave")
	}
	list, err := p.List()
	_, link, linkErr := p.VIPLink()
	if err != nil || linkErr != nil || len(list) > 0 || link || p.nft.Table != nil {
		p.t.Errorf("it left %d virtual servers, link: %t, table: %t; %v, %v", len(list), link, p.nft.Table != nil, err, linkErr)
	}
}

// What the kernel refuses is kube-proxy's, also at an address of which IPVS serves the rest.
func TestRefusedIsKubeProxys(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPackets(t)
		p.WithoutScheduler("lc")
		for _, k := range universe() {
			p.kubeProxy[k] = k.Port != 22
		}
		f := p.agent(dataPlaneAuto)
		f.Want(wanted{ready: true, Forwarding: p.planOf([]service{
			{key: tcp("10.0.0.200", 80), ipvs: true, pods: 1, scheduler: "lc", mark: 0x0fa00001},
			{key: tcp("10.0.0.200", 443), ipvs: true, pods: 1, scheduler: "rr", mark: 0x0fa00002},
			{key: tcp("10.0.0.201", 80), ipvs: true, pods: 1, scheduler: "lc", mark: 0x0fa00003},
			{key: tcp("10.0.0.202", 80), ipvs: true, pods: 1, scheduler: "rr", mark: 0x0fa00004},
		})})
		turn(t, f, 5)
		fates := p.fates(universe())
		for k, want := range map[loadbalancer.VirtualServerKey]string{
			tcp("10.0.0.200", 80): toKubeProxy, tcp("10.0.0.200", 443): toIPVS, tcp("10.0.0.201", 80): toKubeProxy,
			tcp("10.0.0.202", 80): toIPVS, tcp("10.0.0.202", 22): refused,
		} {
			if fates[k] != want {
				t.Errorf("%s:%d goes %s, want %s", k.Addr, k.Port, fates[k], want)
			}
		}
	})
}

// An agent that starts on a node where it is not to forward any more says so, and leaves what
// an earlier run forwards for as long as kube-proxy needs to take it over.
func TestEarlierRunIsHandedBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPackets(t)
		services := []service{{key: tcp("10.0.0.200", 80), ipvs: true, pods: 1, scheduler: "rr", mark: 0x0fa00001}}
		f := p.agent(dataPlaneAuto)
		f.Want(wanted{ready: true, Forwarding: p.planOf(services)})
		turn(t, f, 3)
		f = p.agent(dataPlaneKubeProxy)
		turn(t, f, 2)
		if got := f.State().told.Reason; got != "LeftToKubeProxy" {
			t.Errorf("at once it tells %q", got)
		}
		if got := p.fates(universe())[tcp("10.0.0.200", 80)]; got != toIPVS {
			t.Errorf("at once, the address goes %s", got)
		}
		turn(t, f, int(handBack/time.Second))
		if _, there, err := p.VIPLink(); err != nil || there || len(p.set("served4")) > 0 {
			t.Errorf("later, the link is there: %t, %v", there, err)
		}
	})
}

// A virtual server that serves, and that the kernel refuses to change, goes on serving.
func TestRefusedChangeGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPackets(t)
		before := []service{{key: tcp("10.0.0.200", 80), ipvs: true, pods: 1, scheduler: "rr", mark: 0x0fa00001}}
		f := p.agent(dataPlaneAuto)
		f.Want(wanted{ready: true, Forwarding: p.planOf(before)})
		turn(t, f, 3)
		after := slices.Clone(before)
		after[0].pods = 2
		p.expectUnseen("refused", before, after)
		p.Fault(func(o kerneltest.Op) error {
			if o.Name == "AddReal" {
				return kerneltest.ErrInjected
			}
			return nil
		})
		f.Want(wanted{ready: true, Forwarding: p.planOf(after)})
		turn(t, f, 5)
		if got := p.fates(universe())[tcp("10.0.0.200", 80)]; got != toIPVS || len(f.refused) == 0 {
			t.Errorf("while %d are refused it goes %s", len(f.refused), got)
		}
	})
}

// slowGuard looks at nftables for as long as it is let.
type slowGuard struct {
	guarding
	looks *atomic.Int32
}

func (g slowGuard) Check(ctx context.Context) (bool, error) {
	g.looks.Add(1)
	<-ctx.Done()
	return false, ctx.Err()
}

// slowly runs an agent that has programmed a Service of one pod, and whose first slow look at
// nftables has begun; pods gives the Service others, end stops the agent.
func slowly(t *testing.T) (p *packets, f *forwarder, looks *atomic.Int32, pods func(n int), end func()) {
	t.Helper()
	p, looks = newPackets(t), new(atomic.Int32)
	f = p.agent(dataPlaneAuto)
	pods = func(n int) {
		f.Want(wanted{ready: true, Forwarding: p.planOf([]service{{key: tcp("10.0.0.200", 80), ipvs: true, pods: n, scheduler: "rr", mark: 0x0fa00001}})})
	}
	pods(1)
	turn(t, f, 3)
	f.plane.guard, f.generation = slowGuard{f.plane.guard, looks}, 0
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- f.Run(ctx) }()
	time.Sleep(2 * sentinel) //nolint:forbidigo // a bubble's clock
	return p, f, looks, pods, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// A look at nftables may take long. A change does not wait for it, and does not keep it from
// happening either.
func TestChangesDoNotWaitForALook(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, f, looks, pods, end := slowly(t)
		for n := 2; n < 6; n++ {
			at := time.Now()
			pods(n)
			for len(f.State().programmed.VirtualServers[0].Reals) != n {
				time.Sleep(tick) //nolint:forbidigo // a bubble's clock
			}
			if took := time.Since(at); took > sentinel {
				t.Errorf("%d pods: programmed after %s", n, took)
			}
			// The look after one that was interrupted is not; one after it is under way then.
			time.Sleep(2 * checkTimeout) //nolint:forbidigo // a bubble's clock
		}
		end()
		if looks.Load() < 4 {
			t.Errorf("%d looks", looks.Load())
		}
	})
}

// Nor does an agent that leaves, also when a change has just ended the look before.
func TestLeavingDoesNotWaitForALook(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]bool{"first": false, "after one that was ended": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p, f, looks, pods, end := slowly(t)
				if change {
					pods(2)
					for looks.Load() < 2 {
						time.Sleep(tick) //nolint:forbidigo // a bubble's clock
					}
				}
				at := time.Now()
				if err := f.Leave(t.Context()); err != nil {
					t.Error(err)
				}
				if took := time.Since(at); took >= sentinel || looks.Load() == 0 {
					t.Errorf("it took %s, with %d looks before", took, looks.Load())
				}
				if p.nft.Table != nil {
					t.Error("the table is still there")
				}
				end()
			})
		})
	}
}
