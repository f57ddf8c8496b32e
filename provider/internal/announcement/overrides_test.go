// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// What a Service says of its routes and may not say, it hears of.
func TestVainOverrides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBGP(t)
		b.up(t, "tor-a", "worker")
		b.bgpAds.Put(t, bgpAd("my-bgp", v1alpha1.BGPAdvertisementSpec{ServiceOverrides: []string{"communities"}}))
		b.allocate(t, 1)
		r, _ := b.records.Find("default/svc1")
		med := int64(7)
		r.Spec.BGP = &v1alpha1.BGPOverrides{MED: &med, Communities: []string{"65000:1", "gold"}}
		b.records.Put(t, r)
		wait(t, time.Second)
		b.wantAnnounced(t, true, reason.Announced, "(BGP); its annotation fairlead.dev/bgp-med has no effect, because no BGPAdvertisement of it lists med in serviceOverrides"+
			"; its annotation fairlead.dev/bgp-communities names gold, which no Community explains")
		b.bgpAds.Put(t, bgpAd("my-bgp", v1alpha1.BGPAdvertisementSpec{ServiceOverrides: []string{"communities", "med"}}))
		b.communities.Put(t, &v1alpha1.Community{
			ObjectMeta: metav1.ObjectMeta{Name: "metals"},
			Spec:       v1alpha1.CommunitySpec{Communities: []v1alpha1.CommunityAlias{{Name: "gold", Value: "65000:7"}}},
		})
		wait(t, wordsDelay+time.Second)
		if c := b.condition(t, 1, v1alpha1.ConditionAnnounced); !strings.HasSuffix(c.Message, "(BGP)") {
			t.Errorf("message %q", c.Message)
		}
	})
}
