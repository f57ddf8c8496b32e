// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package member

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/test/netns"
)

// One node's packets reach only a few peers; the others must hear of a change from
// those, not from the full exchange that a node has with one other every ten seconds.
func TestChangesReachEveryNodeOfALargerCluster(t *testing.T) {
	const size = 12
	nodes := cluster(t, size, 1)
	for _, n := range nodes {
		n.Publish(State{})
	}
	for _, n := range nodes {
		n.until(t, "complete", 20*time.Second, func(v View) bool {
			known := 0
			for _, m := range v.Members {
				if m.Known {
					known++
				}
			}
			return known == size-1
		})
	}
	// A node with many networks says so in more than one packet can hold.
	wide := State{Claims: map[loadbalancer.Group]uint64{"g": 7}}
	for i := range 100 {
		wide.Interfaces = append(wide.Interfaces, loadbalancer.Interface{
			Name: fmt.Sprintf("vlan%d", i), Prefixes: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i), 1}), 24)},
		})
	}
	for _, c := range []struct {
		state State
		told  func(View) bool
	}{
		{State{Claims: map[loadbalancer.Group]uint64{"g": 7}}, func(v View) bool { return v.Members["n0"].Claims["g"] == 7 }},
		{State{Leaving: true, Claims: map[loadbalancer.Group]uint64{"g": 7}}, func(v View) bool { return v.Members["n0"].Leaving }},
		{wide, func(v View) bool { return len(v.Members["n0"].Interfaces) == 100 }},
	} {
		start := time.Now()
		nodes[0].Publish(c.state)
		for _, n := range nodes[1:] {
			n.until(t, "told of the change", 2*time.Second, c.told)
		}
		t.Logf("all %d nodes were told within %s", size, time.Since(start))
	}
}

// After a power cut of everything the first node up asks hundreds of others in vain.
func TestActsAloneInTimeHoweverManyAreOff(t *testing.T) {
	// A network on which nobody answers.
	netns.AddVeth(t, "off0", "10.99.0.254/24", "off1", "")
	nd := startNode(t, 0, 1, addrsOf(200), 1)
	nd.until(t, "alone", aloneAfter+time.Second, func(v View) bool { return v.Settled })
}

// A dead node that comes back with another address is let in at once.
func TestReturnsWithAnotherAddress(t *testing.T) {
	nodes := cluster(t, 2, 1)
	nodes[0].until(t, "complete", 10*time.Second, func(v View) bool { return len(v.Members) == 1 })
	nodes[1].unplug()
	nodes[0].until(t, "rid of the dead", 5*time.Second, sees())
	nodes[1].leave(t)
	moved := addrsOf(2)
	moved["n1"] = netip.MustParseAddr("10.99.0.77")
	again := startNode(t, 1, 2, moved, 1)
	again.Publish(State{})
	took := nodes[0].until(t, "joined by the returned", 5*time.Second, sees("n1"))
	t.Logf("let in after %s", took)
}
