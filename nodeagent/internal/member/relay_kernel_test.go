// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package member

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
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
