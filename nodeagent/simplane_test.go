// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/knftables"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/guard"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel/kerneltest"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/surroundings"
)

// simPlane is what of a node forwards. It outlives its agent.
type simPlane struct {
	table *kerneltest.Fake // nil: the kernel has no ip_vs

	planing  sync.Mutex
	nft      *knftables.Fake         // guarded by planing
	fault    func(what string) error // guarded by planing: asked before each operation
	ops      []string                // guarded by planing: operations that change something
	opening  error                   // guarded by planing: the plane cannot be opened
	around   surroundings.Report     // guarded by planing
	notified func()                  // guarded by planing: of nftables' events
	// guarded by planing: half-open connections to these were forgotten
	forgotten []netip.Addr
}

// boot makes a kernel without anything.
func (p *simPlane) boot() {
	p.table = kerneltest.New()
	p.nft = knftables.NewFake(knftables.InetFamily, guard.Table)
	p.table.Fault(func(o kerneltest.Op) error {
		if !o.Writes() {
			return nil
		}
		return p.do(o.String()[strings.IndexByte(o.String(), ' ')+1:])
	})
}

// do is one operation that changes the kernel.
func (p *simPlane) do(what string) error {
	p.planing.Lock()
	defer p.planing.Unlock()
	p.ops = append(p.ops, what)
	if p.fault != nil {
		return p.fault(what)
	}
	return nil
}

// fail has operations fail from now on for which f returns an error; nil ends it.
func (p *simPlane) fail(f func(what string) error) {
	p.planing.Lock()
	defer p.planing.Unlock()
	p.fault = f
}

// crashAt has operation n from now, and all after it, fail, as for one who died.
func (p *simPlane) crashAt(n int) {
	count := 0
	p.fail(func(string) error {
		if count++; count > n {
			return kerneltest.ErrInjected
		}
		return nil
	})
}

// takeOps returns the operations since the last call.
func (p *simPlane) takeOps() []string {
	p.planing.Lock()
	defer p.planing.Unlock()
	out := p.ops
	p.ops = nil
	return out
}

func (p *simPlane) see(r surroundings.Report) {
	p.planing.Lock()
	defer p.planing.Unlock()
	p.around = r
}

// simNFT are nftables with failures.
type simNFT struct {
	*knftables.Fake
	plane *simPlane
}

func (n simNFT) Run(ctx context.Context, tx *knftables.Transaction) error {
	if err := n.plane.do("nft"); err != nil {
		return err
	}
	n.plane.planing.Lock()
	notify := n.plane.notified
	n.plane.planing.Unlock()
	err := n.Fake.Run(ctx, tx)
	n.plane.table.ChangeNFT()
	if notify != nil {
		notify()
	}
	return err //nolint:wrapcheck // a fake
}

func (n *simNode) planeDeps() planeDeps {
	p := &n.simPlane
	if p.table == nil {
		return planeDeps{}
	}
	return planeDeps{
		open: func(context.Context) (*plane, error) {
			p.planing.Lock()
			defer p.planing.Unlock()
			if p.opening != nil {
				return nil, p.opening
			}
			made := newPlane(p.table, n, p.table, simNFT{p.nft, p})
			made.generation = p.table.NFTGeneration
			made.forget = func(addrs []netip.Addr) (int, error) {
				p.planing.Lock()
				defer p.planing.Unlock()
				p.forgotten = append(p.forgotten, addrs...)
				return len(addrs), nil
			}
			return made, nil
		},
		left: func(context.Context) (bool, error) {
			_, there, err := p.table.VIPLink()
			return there, err
		},
		read: func() ([]kernel.ServerState, int, error) {
			list, err := p.table.List()
			return list, 4096, err
		},
		look: func(context.Context) surroundings.Report {
			p.planing.Lock()
			defer p.planing.Unlock()
			return p.around
		},
		watch: func(ctx context.Context, notify func()) error {
			p.planing.Lock()
			p.notified = notify
			p.planing.Unlock()
			<-ctx.Done()
			return nil
		},
	}
}

// simulateIPVS is simulate with kernels that forward.
func simulateIPVS(t *testing.T, names []loadbalancer.NodeName, script func(s *sim)) {
	t.Helper()
	simulate(t, nil, func(s *sim) {
		s.ipvs = true
		s.backends = []loadbalancer.Backend{pod("10.244.1.1", "a"), pod("10.244.2.1", "b"), pod("10.244.3.1", "c")}
		for _, n := range names {
			s.start(n)
		}
		s.wait(time.Second)
		script(s)
	})
}

func pod(addr string, node loadbalancer.NodeName) loadbalancer.Backend {
	return loadbalancer.Backend{
		Addr: netip.MustParseAddr(addr), Protocol: loadbalancer.TCP, Port: 8080, Node: node, Weight: 1, Ready: true, Serving: true,
	}
}

// forwardTo makes a Service that is forwarded, with one port unless others are named.
func (s *sim) forwardTo(addr string, ports ...uint16) {
	if len(ports) == 0 {
		ports = []uint16{80}
	}
	s.bind(addr, loadbalancer.Cluster, "a", "b", "c")
	s.record(addr, func(r *loadbalancer.Record) {
		r.DataPlane, r.Scheduler, r.Ports = loadbalancer.IPVS, "rr", nil
		for _, p := range ports {
			r.Ports = append(r.Ports, loadbalancer.ServicePort{Protocol: loadbalancer.TCP, Port: p})
		}
	})
}

// record changes the record of a Service, which gets another revision.
func (s *sim) record(addr string, change func(r *loadbalancer.Record)) {
	s.mu.Lock()
	uid := loadbalancer.ServiceUID("uid-" + addr)
	r := s.records[uid]
	change(&r)
	s.revision++
	r.Revision = strconv.Itoa(s.revision)
	s.records[uid] = r
	s.mu.Unlock()
	s.markAll()
}

func (s *sim) remove(addr string) {
	s.mu.Lock()
	delete(s.records, loadbalancer.ServiceUID("uid-"+addr))
	s.mu.Unlock()
	s.claims.Delete(v1alpha1.ClaimName(netip.MustParseAddr(addr)))
}

func (s *sim) setBackends(b ...loadbalancer.Backend) {
	s.mu.Lock()
	s.backends = b
	s.mu.Unlock()
	s.markAll()
}

// forwards returns what the node's kernel forwards, in short: its addresses, what the guard
// takes from kube-proxy, and each virtual server for packets from outside with the weights
// of its real servers.
func (p *simPlane) forwards(t *testing.T) string {
	t.Helper()
	p.planing.Lock()
	defer p.planing.Unlock()
	addrs, _, err := p.table.VIPLink()
	if err != nil {
		t.Error(err)
	}
	servers, err := p.table.List()
	if err != nil {
		t.Error(err)
	}
	var out []string
	for _, a := range addrs {
		out = append(out, a.String())
	}
	for _, key := range served(t, p.nft) {
		out = append(out, "take "+key)
	}
	inside := 0
	for i := range servers {
		if servers[i].Mark != 0 {
			inside++
			continue
		}
		line := fmt.Sprintf("%s:%d", servers[i].Addr, servers[i].Port)
		slices.SortFunc(servers[i].Reals, func(a, b kernel.RealState) int { return a.Addr.Compare(b.Addr) })
		for _, r := range servers[i].Reals {
			line += fmt.Sprintf(" %s=%d", r.Addr, r.Weight)
		}
		out = append(out, line)
	}
	return strings.Join(append(out, fmt.Sprintf("inside %d", inside)), "; ")
}

// served are the elements of the guard's set of what is taken from kube-proxy.
func served(t *testing.T, nft *knftables.Fake) []string {
	t.Helper()
	nft.RLock()
	defer nft.RUnlock()
	if nft.Table == nil || nft.Table.Sets["served4"] == nil {
		return nil
	}
	var out []string
	for _, e := range nft.Table.Sets["served4"].Elements {
		out = append(out, e.Key[0]+":"+e.Key[2])
	}
	slices.Sort(out)
	return out
}

// dataPlane returns what the API says of a node's data plane, in short.
func (s *sim) plane(node string) string {
	n, ok := s.agents.Peek(node)
	if !ok {
		return ""
	}
	d := n.Status.DataPlane
	out := string(d.Forwarding) + "/" + d.Reason + "@" + d.Revision
	for _, w := range d.Waiting {
		out += " " + w.Name
	}
	return out
}
