// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"fmt"
	"net/netip"
	"testing"

	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/provider/internal/announcement/fakeapi"
)

// What the controller computes when a node changes: each group's list anew.
func BenchmarkNodeChange(b *testing.B) {
	for _, size := range []struct{ nodes, groups int }{{3, 300}, {500, 1000}, {1000, 10000}, {1000, 100000}} {
		b.Run(fmt.Sprintf("%dNodes%dGroups", size.nodes, size.groups), func(b *testing.B) {
			w := &world{}
			for i := range size.nodes {
				name := fmt.Sprintf("node%04d", i)
				n := convertNode(testNode(name, nil), testAgent(name, fmt.Sprintf("172.20.%d.%d/16", i/200, 1+i%200)))
				n.index = i
				w.nodes = append(w.nodes, n)
			}
			ad := selectNodes(testAd(b, v1alpha1.L2AdvertisementSpec{NodeSelectors: selector("kubernetes.io/os", "linux")}), w.nodes)
			for i := range ad.nodes {
				ad.nodes[i] = i%10 != 0
			}
			claims := fakeapi.NewStore("ipclaims", &v1alpha1.IPClaim{}).Informer()
			if err := claims.AddIndexers(cache.Indexers{groupIndex: byGroup}); err != nil {
				b.Fatal(err)
			}
			c := &Controller{opts: Options{Informers: Informers{Claims: claims}}, ledger: newLedger()}
			wishes := []wish{{addrs: []netip.Addr{vip()}, ads: []*advertisement{ad}}}
			groups := make([]loadbalancer.Group, 0, size.groups)
			for i := range size.groups {
				groups = append(groups, loadbalancer.Group(fmt.Sprintf("172.20.%d.%d", i/250, i%250)))
			}
			pass := func() {
				for _, g := range groups {
					names := c.successors(g, w, wishes, true)
					c.ledger.set(g, head{loadbalancer.NodeName(names[0]), loadbalancer.NodeName(names[1])})
				}
			}
			pass()
			for b.Loop() {
				pass()
			}
		})
	}
}
