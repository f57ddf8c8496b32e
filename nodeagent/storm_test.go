// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// storm is a cluster in which anything happens in any order, a little at a time; in
// between it comes to rest, and then everything must be as it should.
type storm struct {
	*sim
	rand    *rand.Rand
	log     []string
	names   []loadbalancer.NodeName
	running map[loadbalancer.NodeName]bool // has an agent, frozen or not
	frozen  map[loadbalancer.NodeName]bool // its agent does not run
	bound   map[string]loadbalancer.TrafficPolicy
	epochs  map[string]int64 // the last in the API
	mu2     sync.Mutex       // guards epochs and fell
	fell    []string
	// clear says that this round's nodes can all see each other and are all alike.
	clear atomic.Bool
	both  map[string]int // for how many samples two have answered, by address
}

// epoch notes when an owner in the API gives way to one of a lower epoch.
func (w *storm) epoch() {
	w.mu2.Lock()
	defer w.mu2.Unlock()
	seen := make(map[string]int64)
	for _, c := range w.claims.List() {
		if c.Status.Owner == nil {
			continue
		}
		seen[c.Name] = c.Status.Owner.Epoch
		if seen[c.Name] < w.epochs[c.Name] {
			w.fell = append(w.fell, fmt.Sprintf("%s: epoch %d after %d", c.Name, seen[c.Name], w.epochs[c.Name]))
		}
	}
	w.epochs = seen
}

func (w *storm) note(format string, args ...any) {
	w.log = append(w.log, fmt.Sprintf("%7.3f ", time.Since(bubbleStart).Seconds())+fmt.Sprintf(format, args...))
}

// bubbleStart is when every bubble's clock starts.
var bubbleStart = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func (w *storm) node() loadbalancer.NodeName { return w.names[w.rand.IntN(len(w.names))] }

// lose has the gossip lose an agent that does not run, after a while.
func (w *storm) lose(n loadbalancer.NodeName) {
	old := w.nodes[n]
	go func() {
		time.Sleep(detection) //nolint:forbidigo // a bubble's clock
		w.mu.Lock()
		same := w.nodes[n] == old
		w.mu.Unlock()
		old.mu.Lock()
		stopped := old.stopped != nil
		old.mu.Unlock()
		if same && (stopped || len(old.done) > 0) {
			w.setCut(n, true)
		}
	}()
}

// event does one thing, if it is possible.
func (w *storm) event() {
	n := w.node()
	kind := w.rand.IntN(20)
	if w.clear.Load() && (kind == 9 || kind == 12 || kind == 13 || kind == 14) {
		return
	}
	switch kind {
	case 0, 1, 2, 3, 7:
		if w.running[n] && !w.frozen[n] {
			w.agentEvent(n, kind)
		}
	case 4, 5, 6:
		w.back(n)
	case 8:
		w.goOn(n)
	case 15:
		w.claimEvent()
	case 17:
		w.groupEvent()
	case 16, 18, 19:
		w.wireEvent(n, kind)
	default:
		w.clusterEvent(n, kind)
	}
}

// agentEvent ends or stops an agent that runs.
func (w *storm) agentEvent(n loadbalancer.NodeName, kind int) {
	switch kind {
	case 0:
		w.note("power cut %s", n)
		w.off(n)
		w.lose(n)
		w.running[n] = false
	case 1:
		w.note("kill %s", n)
		w.nodes[n].stop()
		w.lose(n)
		w.running[n] = false
	case 2:
		w.note("restart %s", n)
		w.sigterm(n)
		w.running[n] = false
	case 3:
		w.note("leave %s", n)
		w.terminate(n)
		w.kernelOf(n).set(func() { w.kernelOf(n).gone = false })
		w.running[n] = false
	case 7:
		w.note("stop %s", n)
		w.sigstop(n)
		w.frozen[n] = true
		w.lose(n)
	}
}

// clusterEvent parts the cluster, the API server or the copies of it, or changes what nodes
// may announce.
func (w *storm) clusterEvent(n loadbalancer.NodeName, kind int) {
	switch kind {
	case 9:
		others := slices.DeleteFunc(slices.Clone(w.names), func(o loadbalancer.NodeName) bool { return o == n })
		kernels := w.rand.IntN(2) == 0
		w.note("partition %s, kernels too: %t", n, kernels)
		if kernels {
			w.partKernels([]loadbalancer.NodeName{n}, others)
		}
		w.partGossip([]loadbalancer.NodeName{n}, others)
	case 10:
		w.note("heal")
		w.heal()
	case 11:
		if w.rand.IntN(2) == 0 {
			w.note("API server away")
			w.claims.FailWith(func(string, string) error { return errors.New("the server is away") })
		} else {
			w.note("API server back")
			w.claims.FailWith(nil)
		}
	case 12:
		if w.rand.IntN(2) == 0 {
			w.note("watches of %s hang", n)
			if !w.frozen[n] {
				w.freeze(n)
			}
		} else {
			w.note("watches of %s go on", n)
			w.thaw(n)
		}
	case 13:
		kind := w.rand.IntN(4)
		w.note("mark %s: %d", n, kind)
		w.markNode(n, kind == 0, kind == 1)
	case 14:
		var serving []loadbalancer.NodeName
		for _, n := range w.names {
			if w.rand.IntN(2) == 0 {
				serving = append(serving, n)
			}
		}
		w.note("endpoints on %v", serving)
		w.serve(serving...)
	}
}

// wireEvent changes a link, or who is on it.
func (w *storm) wireEvent(n loadbalancer.NodeName, kind int) {
	switch kind {
	case 16:
		node := w.nodes[n]
		node.mu.Lock()
		unplugged := len(node.links) == 0
		node.mu.Unlock()
		if unplugged {
			w.note("plug %s in", n)
			w.replug(n)
		} else {
			w.note("unplug %s", n)
			node.unplug()
			node.set(func() { clear(node.until) }) // they went with the link
		}
	case 18:
		addr := fmt.Sprintf("10.0.0.%d", 200+w.rand.IntN(6))
		w.note("a stranger has %s", addr)
		w.mu.Lock()
		w.foreign[netip.MustParseAddr(addr)] = kernel.MAC{6, 6, 6, 6, 6, 6}
		w.mu.Unlock()
	case 19:
		w.note("%s gets another MAC", n)
		node := w.nodes[n]
		node.mu.Lock()
		node.links = slices.Clone(node.links)
		for i := range node.links {
			node.links[i].MAC[1]++
		}
		node.mu.Unlock()
		mark(node.agent.linksDirty)
	}
}

// groupEvent puts some addresses together or all apart.
func (w *storm) groupEvent() {
	var names []string
	for addr, policy := range w.bound {
		if policy == loadbalancer.Cluster {
			names = append(names, addr)
		}
	}
	slices.Sort(names)
	if w.rand.IntN(2) == 0 {
		w.note("group %v", names)
		for _, n := range names {
			w.group(names[0], n)
		}
		return
	}
	w.note("apart %v", names)
	for _, n := range names {
		w.group(n, n)
	}
}

// back starts an agent that does not run, after a power cut too.
func (w *storm) back(n loadbalancer.NodeName) {
	if !w.running[n] {
		w.note("start %s", n)
		w.ready(n, true)
		w.start(n)
		w.running[n] = true
	}
}

// ready says what the API server holds of a node.
func (w *storm) ready(n loadbalancer.NodeName, ready bool) {
	w.mu.Lock()
	w.unready[n] = !ready
	w.mu.Unlock()
	w.markAll()
}

func (w *storm) goOn(n loadbalancer.NodeName) {
	if w.frozen[n] {
		w.note("continue %s", n)
		w.setCut(n, false)
		w.sigcont(n)
		w.frozen[n] = false
	}
}

func (w *storm) replug(n loadbalancer.NodeName) {
	node := w.nodes[n]
	own := netip.AddrFrom4([4]byte{10, 0, 0, n[0] - 'a' + 1})
	node.mu.Lock()
	node.links = []kernel.Link{{Name: "eth0", Index: 2, MAC: kernel.MAC{2, 0, 0, 0, 0, n[0]}, IPv6: true, Prefixes: []netip.Prefix{netip.PrefixFrom(own, 24), own6(n)}}}
	node.mu.Unlock()
	mark(node.agent.linksDirty)
}

func (w *storm) markNode(n loadbalancer.NodeName, cordoned, excluded bool) {
	w.mu.Lock()
	w.marks[n] = loadbalancer.Node{Cordoned: cordoned, Excluded: excluded}
	w.mu.Unlock()
	w.markAll()
}

// claimEvent binds an address or releases one.
func (w *storm) claimEvent() {
	addr := fmt.Sprintf("10.0.0.%d", 200+w.rand.IntN(6))
	if _, ok := w.bound[addr]; ok {
		w.note("release %s", addr)
		delete(w.bound, addr)
		w.edit(v1alpha1.ClaimName(netip.MustParseAddr(addr)), func(c *v1alpha1.IPClaim) { c.Spec.Phase = v1alpha1.ClaimReleasing })
		return
	}
	if _, ok := w.claims.Peek(addr); ok {
		return // in quarantine
	}
	policy := loadbalancer.Cluster
	if w.rand.IntN(3) == 0 {
		policy = loadbalancer.Local
	}
	var list []string
	for _, i := range w.rand.Perm(len(w.names)) {
		list = append(list, string(w.names[i]))
	}
	w.note("bind %s %v %v", addr, policy, list)
	w.bound[addr] = policy
	w.bind(addr, policy, list...)
}

// rest ends all that is wrong, but for some nodes that stay off, and waits.
func (w *storm) rest() {
	w.note("rest")
	w.heal()
	w.mu.Lock()
	clear(w.foreign)
	w.mu.Unlock()
	w.claims.FailWith(nil)
	for _, n := range w.names {
		w.goOn(n)
		w.thaw(n)
		if w.rand.IntN(4) > 0 || n == w.names[0] {
			w.back(n)
		}
		w.replug(n)
	}
	w.wait(45 * time.Second)
	for _, n := range w.names {
		w.ready(n, w.running[n])
	}
	w.wait(5 * time.Second)
	for i := range 6 {
		addr := fmt.Sprintf("10.0.0.%d", 200+i)
		if _, ok := w.bound[addr]; !ok {
			w.claims.Delete(addr)
		}
	}
	w.wait(time.Second)
}

// calm makes all nodes alike.
func (w *storm) calm() {
	for _, n := range w.names {
		w.markNode(n, false, false)
	}
	w.serve(w.names...)
	w.wait(5 * time.Second)
}

func newStorm(s *sim, names []loadbalancer.NodeName, seed uint64) *storm {
	s.latency = time.Millisecond
	w := &storm{
		sim: s, rand: rand.New(rand.NewPCG(seed, 0)), names: names, running: map[loadbalancer.NodeName]bool{}, frozen: map[loadbalancer.NodeName]bool{},
		bound: map[string]loadbalancer.TrafficPolicy{}, epochs: map[string]int64{}, both: map[string]int{},
	}
	for _, n := range w.names {
		w.running[n] = true
	}
	w.claims.OnChange(func() { w.epoch(); s.markAll() })
	w.serve(w.names...)
	return w
}

func weather(t *testing.T, seed uint64, rounds int) {
	t.Helper()
	names := abcd()[:2+seed%3]
	simulate(t, names, func(s *sim) {
		w := newStorm(s, names, seed)
		ctx, cancel := context.WithCancel(s.t.Context())
		defer cancel()
		go w.sample(ctx)
		for range 4 {
			w.claimEvent()
		}
		w.rest()
		for round := range rounds {
			w.log = append(w.log[:0:0], fmt.Sprintf("round %d: bound %v, running %v, marks %v", round, w.bound, w.running, w.marks))
			before := w.published.Load()
			for addr := range w.bound {
				w.log = append(w.log, fmt.Sprintf("  %s: %q answers, owner %s", addr, w.who(addr), w.owner(addr)))
			}
			events := 1 + w.rand.IntN(5)
			w.clear.Store(w.rand.IntN(2) == 0)
			if w.clear.Load() {
				w.calm()
			}
			for range events {
				w.event()
				if w.rand.IntN(2) == 0 {
					w.wait(time.Duration(w.rand.IntN(8000)) * time.Millisecond)
				}
				synctest.Wait()
			}
			w.rest()
			faults := append(append(w.check(), w.quiet()...), w.fell...)
			if n := w.published.Load() - before; n > int64(60*(events+5)) {
				faults = append(faults, fmt.Sprintf("%d news in the gossip after %d events", n, events))
			}
			if len(faults) > 0 {
				s.t.Errorf("seed %d:\n%s\n--\n%s", seed, strings.Join(w.log, "\n"), strings.Join(faults, "\n"))
				return
			}
		}
	})
}

// TestStorm runs a few random histories; -storms runs more.
func TestStorm(t *testing.T) {
	t.Parallel()
	for seed := uint64(*first); seed < uint64(*first+*storms); seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			weather(t, seed, 6)
		})
	}
}

var first = flag.Uint("storm", 0, "the first random history to simulate")

var storms = flag.Uint("storms", 2, "random histories to simulate")
