// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"fmt"
	"net/netip"
	"testing"

	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/provider/internal/announcement/fakeapi"
)

// What the controller computes when one of 500 nodes changes: each group's list anew.
func BenchmarkNodeChange(b *testing.B) {
	const groups, nodes = 1000, 500
	w := &world{}
	for i := range nodes {
		name := fmt.Sprintf("node%03d", i)
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
	for b.Loop() {
		for range groups {
			c.successors("172.20.255.200", w, []wish{{addrs: []netip.Addr{vip()}, ads: []*advertisement{ad}}}, true)
		}
	}
}
