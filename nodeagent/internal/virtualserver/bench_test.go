// SPDX-License-Identifier: Apache-2.0

package virtualserver_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// BenchmarkOneEndpoint is one real server more or less among 10,000 virtual servers, without
// the kernel's part.
func BenchmarkOneEndpoint(b *testing.B) {
	n := newNode()
	var one []loadbalancer.VirtualServer
	for i := range 10000 {
		one = append(one, service(netip.AddrFrom4([4]byte{192, 1, byte(i >> 8), byte(i)}), loadbalancer.UDP, "rr", pods(1, 2, 3)...))
	}
	other := slices.Clone(one)
	other[4711].Reals = pods(1, 2, 3, 4)
	plans := []loadbalancer.Forwarding{plan(), plan()}
	plans[0].VirtualServers, plans[1].VirtualServers = one, other
	if _, err := n.servers.Apply(b.Context(), plans[0]); err != nil {
		b.Fatal(err)
	}
	i := 0
	for b.Loop() {
		i++
		if _, err := n.servers.Apply(b.Context(), plans[i%2]); err != nil {
			b.Fatal(err)
		}
	}
}
