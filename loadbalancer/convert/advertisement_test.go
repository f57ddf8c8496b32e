// SPDX-License-Identifier: Apache-2.0

package convert_test

import (
	"net/netip"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
)

func TestL2AdvertisementSelects(t *testing.T) {
	gold := []metav1.LabelSelector{{MatchLabels: map[string]string{"tier": "gold"}}}
	either := append([]metav1.LabelSelector{{MatchLabels: map[string]string{"tier": "none"}}}, gold...)
	for _, tc := range []struct {
		name                string
		spec                v1alpha1.L2AdvertisementSpec
		pool, node, service bool
	}{
		{name: "nothing named is everything", pool: true, node: true, service: true},
		{name: "pool by name", spec: v1alpha1.L2AdvertisementSpec{IPAddressPools: []string{"p"}}, pool: true, node: true, service: true},
		{name: "another pool", spec: v1alpha1.L2AdvertisementSpec{IPAddressPools: []string{"q"}}, node: true, service: true},
		{name: "pool by label", spec: v1alpha1.L2AdvertisementSpec{IPAddressPoolSelectors: either}, pool: true, node: true, service: true},
		{
			name: "another pool by name, this one by label",
			spec: v1alpha1.L2AdvertisementSpec{IPAddressPools: []string{"q"}, IPAddressPoolSelectors: gold}, pool: true, node: true, service: true,
		},
		{
			name: "neither by name nor by label",
			spec: v1alpha1.L2AdvertisementSpec{IPAddressPools: []string{"q"}, IPAddressPoolSelectors: either[:1]}, node: true, service: true,
		},
		{name: "node and Service by label", spec: v1alpha1.L2AdvertisementSpec{NodeSelectors: gold, ServiceSelectors: either}, pool: true, node: true, service: true},
		{name: "node not selected", spec: v1alpha1.L2AdvertisementSpec{NodeSelectors: either[:1]}, pool: true, service: true},
		{name: "Service not selected", spec: v1alpha1.L2AdvertisementSpec{ServiceSelectors: either[:1]}, pool: true, node: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ad, err := convert.L2Advertisement(&v1alpha1.L2Advertisement{Spec: tc.spec})
			if err != nil {
				t.Fatal(err)
			}
			labels := map[string]string{"tier": "gold"}
			if got := ad.SelectsPool("p", labels); got != tc.pool {
				t.Errorf("SelectsPool = %t", got)
			}
			if got := ad.SelectsNode(labels); got != tc.node {
				t.Errorf("SelectsNode = %t", got)
			}
			if got := ad.SelectsService(labels); got != tc.service {
				t.Errorf("SelectsService = %t", got)
			}
		})
	}
}

func TestL2AdvertisementSelectsInterface(t *testing.T) {
	eth0 := loadbalancer.Interface{Name: "eth0", Prefixes: []netip.Prefix{
		netip.MustParsePrefix("172.20.0.4/16"), netip.MustParsePrefix("fd00::4/64"),
	}}
	for _, tc := range []struct {
		names []string
		addr  string
		want  bool
	}{
		{nil, "172.20.255.200", true},
		{nil, "172.21.0.1", false},
		{nil, "fd00::1", true},
		{[]string{"eth0"}, "203.0.113.1", true},
		{[]string{"eth1"}, "172.20.255.200", false},
	} {
		ad, err := convert.L2Advertisement(&v1alpha1.L2Advertisement{Spec: v1alpha1.L2AdvertisementSpec{Interfaces: tc.names}})
		if err != nil {
			t.Fatal(err)
		}
		if got := ad.SelectsInterface(eth0, netip.MustParseAddr(tc.addr)); got != tc.want {
			t.Errorf("interfaces %v, address %s: %t, want %t", tc.names, tc.addr, got, tc.want)
		}
	}
}

func TestL2AdvertisementWeights(t *testing.T) {
	ad, err := convert.L2Advertisement(&v1alpha1.L2Advertisement{Spec: v1alpha1.L2AdvertisementSpec{
		PreferredNodeSelectors: []v1alpha1.PreferredNodeSelector{
			{Weight: 10, Preference: metav1.LabelSelector{MatchLabels: map[string]string{"rack": "a"}}},
			{Weight: 3, Preference: metav1.LabelSelector{MatchLabels: map[string]string{"tier": "gold"}}},
			{Weight: 1},
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for want, labels := range map[int]map[string]string{
		14: {"rack": "a", "tier": "gold"}, 11: {"rack": "a"}, 4: {"rack": "b", "tier": "gold"}, 1: nil,
	} {
		if got := ad.Weight(labels); got != want {
			t.Errorf("weight of %v is %d, want %d", labels, got, want)
		}
		if !ad.SelectsNode(labels) {
			t.Errorf("a preference keeps %v from announcing", labels)
		}
	}
}

func TestL2AdvertisementNamesEveryBadSelector(t *testing.T) {
	bad := []metav1.LabelSelector{{}, {MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "x", Operator: "Near"}}}}
	_, err := convert.L2Advertisement(&v1alpha1.L2Advertisement{Spec: v1alpha1.L2AdvertisementSpec{
		IPAddressPoolSelectors: bad, NodeSelectors: bad, ServiceSelectors: bad,
		PreferredNodeSelectors: []v1alpha1.PreferredNodeSelector{{Weight: 1}, {Weight: 1, Preference: bad[1]}},
	}})
	for _, field := range []string{"ipAddressPoolSelectors[1]", "nodeSelectors[1]", "serviceSelectors[1]", "preferredNodeSelectors[1]"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("error %v does not name %s", err, field)
		}
	}
}
