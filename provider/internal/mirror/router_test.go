// SPDX-License-Identifier: Apache-2.0

package mirror_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/provider/internal/mirror"
)

// A BGPPeer of ours and MetalLB's speakers at one router: said once, while both are there.
func TestSharedRoutersAreNamed(t *testing.T) {
	own := func(address string, port int32) *v1alpha1.BGPPeer {
		return &v1alpha1.BGPPeer{
			ObjectMeta: metav1.ObjectMeta{Name: "own"},
			Spec:       v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64513, PeerAddress: address, PeerPort: port},
		}
	}
	for _, tt := range []struct {
		name  string
		peer  *v1alpha1.BGPPeer
		lb    bool
		named bool
	}{
		{"the same router", own("10.0.0.1", 179), true, true},
		{"the same router, port by default", own("10.0.0.1", 0), true, true},
		{"without MetalLB", own("10.0.0.1", 179), false, false},
		{"another port", own("10.0.0.1", 1790), true, false},
		{"another router", own("10.0.0.2", 179), true, false},
		{"an interface", own("", 179), true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := start(t, mirror.Auto, func(*bed) {})
				if tt.lb {
					if _, err := b.kube.AppsV1().DaemonSets(namespace).Create(t.Context(), metallb(map[string]string{"app": "metallb"}), metav1.CreateOptions{}); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := b.peers.In("").Create(t.Context(), tt.peer, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
				b.createPeer(t, peer("theirs", nil))
				b.createPeer(t, peer("other", map[string]any{"peerAddress": "10.0.0.9"}))
				wait(t, time.Minute)
				var found []string
				for _, e := range b.takeEvents() {
					if strings.Contains(e, "same router") {
						found = append(found, e)
					}
				}
				if !tt.named && len(found) > 0 || tt.named && (len(found) != 1 || !strings.HasPrefix(found[0], "Warning MetalLBRunning ") ||
					!strings.Contains(found[0], "10.0.0.1 (BGPPeer "+namespace+"/theirs)") || !strings.Contains(found[0], "DaemonSet speaker")) {
					t.Errorf("events %q, named %t", found, tt.named)
				}
			})
		})
	}
}
