// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// vainOverrides tells what a Service says of its routes in vain, "" when there is nothing:
// no advertisement leaves it to the Service, or a community is not known.
func vainOverrides(says *v1alpha1.BGPOverrides, ads []bgpWish, aliases map[string]loadbalancer.Community) string {
	if says == nil || len(ads) == 0 {
		return ""
	}
	var out []string
	for _, o := range []struct {
		said              bool
		annotation, field string
		allows            func(*loadbalancer.BGPAdvertisement) bool
	}{
		{says.LocalPref != nil, v1alpha1.AnnotationBGPLocalPref, "localPref", func(a *loadbalancer.BGPAdvertisement) bool { return a.ServiceLocalPref }},
		{says.MED != nil, v1alpha1.AnnotationBGPMED, "med", func(a *loadbalancer.BGPAdvertisement) bool { return a.ServiceMED }},
		{says.ASPathPrepend != nil, v1alpha1.AnnotationBGPPrepend, "asPathPrepend", func(a *loadbalancer.BGPAdvertisement) bool { return a.ServicePrepend }},
		{len(says.Communities) > 0, v1alpha1.AnnotationBGPCommunities, "communities", func(a *loadbalancer.BGPAdvertisement) bool { return a.ServiceCommunities }},
	} {
		if o.said && !slices.ContainsFunc(ads, func(ad bgpWish) bool { return o.allows(&ad.says) }) {
			out = append(out, fmt.Sprintf("; its annotation %s has no effect, because no BGPAdvertisement of it lists %s in serviceOverrides", o.annotation, o.field))
		}
	}
	for _, word := range says.Communities {
		if _, err := loadbalancer.ParseCommunity(word, aliases); err != nil {
			out = append(out, fmt.Sprintf("; its annotation %s names %s, which no Community explains", v1alpha1.AnnotationBGPCommunities, word))
		}
	}
	return strings.Join(out, "")
}
