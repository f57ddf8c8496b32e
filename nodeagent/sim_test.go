// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/l2"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/intake"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/member"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/status/statustest"
)

// sim is a cluster of whole agents over fakes, in one synctest bubble: an API server,
// a gossip that is instant, and one LAN. detection is what a silent death takes.
type sim struct {
	t      *testing.T
	claims *statustest.Claims
	agents *statustest.NodeAgents

	mu        sync.Mutex
	records   map[loadbalancer.ServiceUID]loadbalancer.Record
	serving   map[loadbalancer.NodeName]struct{}
	nodes     map[loadbalancer.NodeName]*simNode
	cut       map[loadbalancer.NodeName]bool // members that the others hold for dead
	kept      map[loadbalancer.NodeName]*simKernel
	unsettled atomic.Bool                                 // the gossip is for all that start
	deaf      loadbalancer.NodeName                       // set before its start: it may not open packet sockets
	foreign   map[netip.Addr]kernel.MAC                   // hosts on the LAN that are no nodes
	profile   string                                      // set before nodes start: how they detect
	apart     map[loadbalancer.NodeName]int               // the parts of a LAN that fell apart
	deafTo    map[loadbalancer.NodeName]int               // the parts of the gossip
	lostBy    map[loadbalancer.NodeName]int               // the same, once the agents know
	latency   time.Duration                               // of the gossip's news
	marks     map[loadbalancer.NodeName]loadbalancer.Node // what the API says of nodes
	unready   map[loadbalancer.NodeName]bool              // for the API
	published atomic.Int64                                // news in the gossip
	ipvs      bool                                        // set before nodes start: their kernels forward
	dataPlane string                                      // set before nodes start: --data-plane
	backends  []loadbalancer.Backend                      // of all Services, for the data plane
	revision  int                                         // of the record that was changed last
	bgp       loadbalancer.BGPConfig                      // of every node
	connect   func() (speaker, detector)                  // set before nodes start: a real one
	drain     time.Duration                               // set before nodes start: --bgp-drain
}

const detection = 700 * time.Millisecond

type simNode struct {
	*simKernel
	s      *sim
	name   loadbalancer.NodeName
	agent  *Agent
	cancel context.CancelFunc
	kill   context.CancelFunc
	done   chan error

	mu        sync.Mutex
	ip        netip.Addr
	state     member.State
	told      bool
	links     []kernel.Link
	gateways  []netip.Addr
	frozen    *intake.Objects // what the agent's copies show while its watches hang
	shown     intake.Objects  // what they showed last
	wires     []*simWire
	off       bool
	seen      map[loadbalancer.NodeName]*simPeer // what it knows of the others
	settledAt time.Time
	stopped   chan struct{} // not nil while the agent does not run
}

// simulate runs a script with agents on nodes named a, b and so on.
func simulate(t *testing.T, names []loadbalancer.NodeName, script func(s *sim)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t)
		for _, n := range names {
			s.start(n)
		}
		s.wait(time.Second)
		script(s)
		for _, n := range s.nodes {
			n.stop()
		}
	})
}

func newSim(t *testing.T) *sim {
	t.Helper()
	s := &sim{
		t: t, claims: statustest.NewClaims(), agents: statustest.NewNodeAgents(),
		records: map[loadbalancer.ServiceUID]loadbalancer.Record{},
		nodes:   map[loadbalancer.NodeName]*simNode{}, cut: map[loadbalancer.NodeName]bool{}, kept: map[loadbalancer.NodeName]*simKernel{},
		serving: map[loadbalancer.NodeName]struct{}{}, marks: map[loadbalancer.NodeName]loadbalancer.Node{}, unready: map[loadbalancer.NodeName]bool{}, foreign: map[netip.Addr]kernel.MAC{},
		apart: map[loadbalancer.NodeName]int{}, deafTo: map[loadbalancer.NodeName]int{}, lostBy: map[loadbalancer.NodeName]int{},
	}
	s.claims.OnChange(s.markAll)
	return s
}

// wait lets time pass and everything settle.
func (s *sim) wait(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // a bubble's clock
	synctest.Wait()
}

func (s *sim) markAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.nodes {
		mark(n.agent.dirty)
	}
}

// start starts an agent on a node, also again.
func (s *sim) start(name loadbalancer.NodeName) {
	s.t.Helper()
	own := netip.AddrFrom4([4]byte{10, 0, 0, name[0] - 'a' + 1})
	n := &simNode{s: s, name: name, done: make(chan error, 1), ip: own, settledAt: time.Now().Add(s.gap(time.Second))}
	n.simKernel = s.kernelOf(name)
	n.set(func() { n.dead = false })
	n.links = []kernel.Link{{Name: "eth0", Index: 2, MAC: kernel.MAC{2, 0, 0, 0, 0, name[0]}, IPv6: true, Prefixes: []netip.Prefix{netip.PrefixFrom(own, 24), own6(name)}}}
	o := Defaults(env("NODE_NAME", string(name)))
	if s.profile != "" {
		o.Profile = s.profile
	}
	if s.dataPlane != "" {
		o.DataPlane = s.dataPlane
	}
	if s.drain > 0 {
		o.BGPDrain = s.drain
	}
	tells, watches := speaker(newSimSpeaker(&n.router)), detector(noBFD{})
	if s.connect != nil {
		tells, watches = s.connect()
	}
	a, err := newAgent(o, "v0", deps{
		plane:   n.planeDeps(),
		speaker: tells, bfd: watches, finder: noBFD{},
		kernel: n, cluster: n, claims: s.claims, agents: s.agents, registry: prometheus.NewRegistry(),
		openARP:    func(kernel.Link) (l2.Conn, error) { return n.open(false) },
		openNDP:    func(kernel.Link) (l2.Conn, error) { return n.open(true) },
		newObjects: func(func()) (objects, error) { return n, nil },
	})
	if err != nil {
		s.t.Fatal(err)
	}
	n.agent = a
	s.mu.Lock()
	s.nodes[name] = n
	delete(s.cut, name)
	s.mu.Unlock()
	n.run()
	s.markAll()
}

func own6(name loadbalancer.NodeName) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 15: name[0] - 'a' + 1}), 64)
}

// run is Agent.Run without the servers, whose sockets would stop a bubble's clock.
func (n *simNode) run() {
	ctx, cancel := context.WithCancel(n.s.t.Context())
	work, kill := context.WithCancel(context.WithoutCancel(ctx))
	n.cancel, n.kill = cancel, kill
	var wg sync.WaitGroup
	for _, f := range []func(context.Context) error{n.agent.arp.Run, n.agent.ndp.Run, n.agent.probes.Run, n.agent.pulse.Run, n.agent.owners.Run, n.agent.report.Run, n.agent.forward.Run, n.agent.speaker.Run, n.agent.d.bfd.Run} {
		wg.Go(func() {
			if err := f(work); err != nil {
				n.s.t.Errorf("%s: %v", n.name, err)
			}
		})
	}
	l := newLoop(n.agent, n)
	l.addr = n.ip
	go func() {
		err := l.run(ctx, work)
		kill()
		wg.Wait()
		n.done <- err
	}()
}

// stop stops a node's agent at the end of a test; it may have stopped already.
func (n *simNode) stop() {
	n.kill()
	n.cancel()
	if err := <-n.done; err != nil {
		n.s.t.Errorf("%s: %v", n.name, err)
	}
	n.done <- nil
}

// powerCut stops a node at once; the others know after the detection time.
func (s *sim) powerCut(name loadbalancer.NodeName) {
	n := s.nodes[name]
	n.mu.Lock()
	n.off = true
	n.mu.Unlock()
	n.powerOff()
	n.stop()
	s.wait(detection)
	s.setCut(name, true)
}

func (s *sim) setCut(name loadbalancer.NodeName, cut bool) {
	s.mu.Lock()
	s.cut[name] = cut
	s.mu.Unlock()
	s.markAll()
}

// terminate takes the agent's DaemonSet away and stops it for good.
func (s *sim) terminate(name loadbalancer.NodeName) {
	s.nodes[name].unwant()
	s.sigterm(name)
}

// sigterm sends the agent SIGTERM and waits until it is gone.
func (s *sim) sigterm(name loadbalancer.NodeName) {
	n := s.nodes[name]
	n.cancel()
	if err := <-n.done; err != nil {
		s.t.Errorf("%s: %v", name, err)
	}
	n.done <- nil
	s.setCut(name, true)
}

// who returns the nodes that answer for an address.
func (s *sim) who(addr string) string {
	s.mu.Lock()
	nodes := maps.Clone(s.nodes)
	s.mu.Unlock()
	out := ""
	for _, name := range []loadbalancer.NodeName{"a", "b", "c", "d"} {
		if n := nodes[name]; n != nil && n.answers(addr) {
			out += string(name)
		}
	}
	return out
}

// owner returns the owner in the API as node@epoch.
func (s *sim) owner(name string) string {
	c, ok := s.claims.Peek(name)
	if !ok || c.Status.Owner == nil {
		return ""
	}
	return c.Status.Owner.Node + "@" + string(rune('0'+c.Status.Owner.Epoch))
}

// bind makes a Service with one address as the controller would.
func (s *sim) bind(addr string, policy loadbalancer.TrafficPolicy, successors ...string) {
	uid := types.UID("uid-" + addr)
	s.mu.Lock()
	s.records[loadbalancer.ServiceUID(uid)] = loadbalancer.Record{
		UID: loadbalancer.ServiceUID(uid), Service: loadbalancer.ServiceKey{Namespace: "d", Name: addr}, Policy: policy,
		Addrs: []netip.Addr{netip.MustParseAddr(addr)}, Advertisements: []string{"ad"},
	}
	s.mu.Unlock()
	name := v1alpha1.ClaimName(netip.MustParseAddr(addr))
	s.claims.Put(&v1alpha1.IPClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.IPClaimSpec{
			Address: addr, Group: name, Phase: v1alpha1.ClaimBound, Successors: successors,
			Services: []v1alpha1.ServiceReference{{UID: uid}},
		},
	})
}

// share lets a Service have more addresses: those of its own claim and of others. The
// claims' groups are set by [sim.group].
func (s *sim) share(service string, addrs ...string) {
	uid := loadbalancer.ServiceUID("uid-" + service)
	s.mu.Lock()
	r := s.records[uid]
	r.Addrs = nil
	for _, a := range addrs {
		r.Addrs = append(r.Addrs, netip.MustParseAddr(a))
	}
	s.records[uid] = r
	s.mu.Unlock()
	for _, a := range addrs {
		s.edit(v1alpha1.ClaimName(netip.MustParseAddr(a)), func(c *v1alpha1.IPClaim) {
			ref := v1alpha1.ServiceReference{UID: types.UID(uid)}
			if !slices.ContainsFunc(c.Spec.Services, func(r v1alpha1.ServiceReference) bool { return r.UID == ref.UID }) {
				c.Spec.Services = append(c.Spec.Services, ref)
			}
		})
	}
}

// group sets the group of claims, one after the other as the controller does.
func (s *sim) group(name string, addrs ...string) {
	for _, a := range addrs {
		s.edit(a, func(c *v1alpha1.IPClaim) { c.Spec.Group = name })
		synctest.Wait()
	}
}

// freeze keeps a node's local copies as they are, as if its watches hung; thaw ends it.
func (s *sim) freeze(name loadbalancer.NodeName) {
	objs := s.nodes[name].copies()
	n := s.nodes[name]
	n.mu.Lock()
	n.frozen = &objs
	n.mu.Unlock()
}

func (s *sim) thaw(name loadbalancer.NodeName) {
	n := s.nodes[name]
	n.mu.Lock()
	n.frozen = nil
	n.mu.Unlock()
	s.markAll()
}

// watch asks for an address every 5 ms for d and returns who answered, each
// change once: "b" is one node without a gap, "b,bc,c" a handover without one.
func (s *sim) watch(addr string, d time.Duration) string {
	var seen []string
	for end := time.Now().Add(d); time.Now().Before(end); {
		who := s.who(addr)
		if len(seen) == 0 || seen[len(seen)-1] != who {
			seen = append(seen, who)
		}
		s.wait(5 * time.Millisecond)
	}
	return strings.Join(seen, ",")
}

func (s *sim) edit(name string, change func(c *v1alpha1.IPClaim)) {
	c, ok := s.claims.Peek(name)
	if !ok {
		s.t.Fatalf("no claim %s", name)
	}
	change(c)
	s.claims.Put(c)
}

func (s *sim) serve(names ...loadbalancer.NodeName) {
	s.mu.Lock()
	s.serving = map[loadbalancer.NodeName]struct{}{}
	for _, n := range names {
		s.serving[n] = struct{}{}
	}
	s.mu.Unlock()
	s.markAll()
}

// The node as the agent's local copies.

func (n *simNode) Run(ctx context.Context) error           { <-ctx.Done(); return nil }
func (n *simNode) WaitSynced(context.Context) bool         { return true }
func (n *simNode) NodeUID(loadbalancer.NodeName) types.UID { return "" }

func (n *simNode) Claim(name string) (*v1alpha1.IPClaim, bool) { return n.s.claims.Peek(name) }

// copies are the objects as the agent has them.
func (n *simNode) copies() intake.Objects {
	n.mu.Lock()
	frozen := n.frozen
	n.mu.Unlock()
	if frozen != nil {
		return *frozen
	}
	out := intake.Objects{
		Advertisements: map[string]loadbalancer.Advertisement{"ad": {Name: "ad", AllNodes: true}},
		Nodes:          map[loadbalancer.NodeName]loadbalancer.Node{},
		Endpoints:      map[loadbalancer.ServiceKey]loadbalancer.Endpoints{},
	}
	for _, c := range n.s.claims.List() {
		claim, err := convert.Claim(c)
		if err != nil {
			n.s.t.Error(err)
		}
		out.Claims = append(out.Claims, claim)
	}
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	out.Records = maps.Clone(n.s.records)
	for _, r := range out.Records {
		out.Endpoints[r.Service] = loadbalancer.Endpoints{Any: len(n.s.serving) > 0, Nodes: n.s.serving, Backends: n.s.backends}
	}
	for name, other := range n.s.nodes {
		other.mu.Lock()
		m := n.s.marks[name]
		m.Name, m.Ready, m.InternalIPs = name, !n.s.unready[name], []netip.Addr{other.ip}
		out.Nodes[name] = m
		other.mu.Unlock()
	}
	return out
}

// The node as the agent's gossip.

func (n *simNode) Publish(st member.State) {
	n.mu.Lock()
	changed := !n.told || n.state.Leaving != st.Leaving || n.state.Restarting != st.Restarting || !maps.Equal(n.state.Claims, st.Claims) ||
		!slices.Equal(n.state.Gateways, st.Gateways) || !slices.EqualFunc(n.state.Interfaces, st.Interfaces, sameInterface)
	n.state, n.told = st, true
	n.mu.Unlock()
	if changed {
		n.s.published.Add(1)
		n.s.markAll()
	}
}

func (n *simNode) SetPeers(map[loadbalancer.NodeName]netip.Addr) {}

func (n *simNode) open(six bool) (l2.Conn, error) {
	if n.name == n.s.deaf {
		return nil, errors.New("operation not permitted")
	}
	w := &simWire{s: n.s, from: n.name, six: six, in: make(chan []byte), out: make(chan []byte, 1000), closed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wires = append(n.wires, w)
	return w, nil
}

// answers asks the node, its agent and its kernel, by ARP.
func (n *simNode) answers(addr string) bool {
	n.mu.Lock()
	wires, off := n.wires, n.off
	n.mu.Unlock()
	if !off && n.keeps(netip.MustParseAddr(addr)) {
		return true
	}
	for _, w := range wires {
		if !off && w.ask(netip.MustParseAddr(addr)) {
			return true
		}
	}
	return false
}
