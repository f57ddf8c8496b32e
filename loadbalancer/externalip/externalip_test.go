// SPDX-License-Identifier: Apache-2.0

package externalip_test

import (
	"net/netip"
	"testing"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/externalip"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
)

func TestGranted(t *testing.T) {
	t.Parallel()
	tcp := func(n uint16) pool.Port { return pool.Port{Protocol: "TCP", Number: n} }
	shop := v1alpha1.ExternalIPGrant{Namespaces: []string{"shop"}, Ranges: []string{"192.0.2.0/24", "2001:db8::/64"}}
	labelled := v1alpha1.ExternalIPGrant{
		NamespaceSelector: &v1alpha1.NamespaceSelector{MatchLabels: map[string]string{"team": "edge"}},
		Ranges:            []string{"198.51.100.7/32"},
	}
	everybody := v1alpha1.ExternalIPGrant{NamespaceSelector: &v1alpha1.NamespaceSelector{}, Ranges: []string{"203.0.113.0/24"}}
	web := shop
	web.Ports = []v1alpha1.GrantPort{{Port: 80}, {Protocol: "TCP", Port: 8000, EndPort: 8080}, {Protocol: "UDP", Port: 53}}
	odd := v1alpha1.ExternalIPGrant{Namespaces: []string{"shop"}, Ranges: []string{"nonsense", "192.0.2.5/24"}}
	none := v1alpha1.ExternalIPGrant{Ranges: []string{"0.0.0.0/0"}}
	tests := []struct {
		name   string
		grants []v1alpha1.ExternalIPGrant
		ns     string
		labels map[string]string
		addr   string
		ports  []pool.Port
		want   bool
	}{
		{name: "no grant", ns: "shop", addr: "192.0.2.1"},
		{name: "by name", grants: []v1alpha1.ExternalIPGrant{shop}, ns: "shop", addr: "192.0.2.1", ports: []pool.Port{tcp(22)}, want: true},
		{name: "other namespace", grants: []v1alpha1.ExternalIPGrant{shop}, ns: "shop2", addr: "192.0.2.1"},
		{name: "other range", grants: []v1alpha1.ExternalIPGrant{shop}, ns: "shop", addr: "192.0.3.1"},
		{name: "IPv6", grants: []v1alpha1.ExternalIPGrant{shop}, ns: "shop", addr: "2001:db8::9", want: true},
		{name: "by label", grants: []v1alpha1.ExternalIPGrant{shop, labelled}, ns: "x", labels: map[string]string{"team": "edge", "a": "b"}, addr: "198.51.100.7", want: true},
		{name: "label missing", grants: []v1alpha1.ExternalIPGrant{labelled}, ns: "x", addr: "198.51.100.7"},
		{name: "label differs", grants: []v1alpha1.ExternalIPGrant{labelled}, ns: "x", labels: map[string]string{"team": "core"}, addr: "198.51.100.7"},
		{name: "empty selector is everybody", grants: []v1alpha1.ExternalIPGrant{everybody}, ns: "any", addr: "203.0.113.9", want: true},
		{name: "neither names nor selector is nobody", grants: []v1alpha1.ExternalIPGrant{none}, ns: "shop", addr: "192.0.2.1"},
		{name: "ports allowed", grants: []v1alpha1.ExternalIPGrant{web}, ns: "shop", addr: "192.0.2.1", ports: []pool.Port{tcp(80), tcp(8080), {Protocol: "UDP", Number: 53}}, want: true},
		{name: "port beyond the range", grants: []v1alpha1.ExternalIPGrant{web}, ns: "shop", addr: "192.0.2.1", ports: []pool.Port{tcp(80), tcp(8081)}},
		{name: "protocol differs", grants: []v1alpha1.ExternalIPGrant{web}, ns: "shop", addr: "192.0.2.1", ports: []pool.Port{{Protocol: "UDP", Number: 80}}},
		{name: "ports of two grants add up", grants: []v1alpha1.ExternalIPGrant{
			{Namespaces: []string{"shop"}, Ranges: shop.Ranges, Ports: []v1alpha1.GrantPort{{Port: 80}}},
			{Namespaces: []string{"shop"}, Ranges: shop.Ranges, Ports: []v1alpha1.GrantPort{{Port: 443}}},
		}, ns: "shop", addr: "192.0.2.1", ports: []pool.Port{tcp(80), tcp(443)}, want: true},
		{name: "ports of another namespace's grant do not", grants: []v1alpha1.ExternalIPGrant{
			{Namespaces: []string{"shop"}, Ranges: shop.Ranges, Ports: []v1alpha1.GrantPort{{Port: 80}}},
			{Namespaces: []string{"x"}, Ranges: shop.Ranges, Ports: []v1alpha1.GrantPort{{Port: 443}}},
		}, ns: "shop", addr: "192.0.2.1", ports: []pool.Port{tcp(80), tcp(443)}},
		{name: "a range with host bits counts as its network", grants: []v1alpha1.ExternalIPGrant{odd}, ns: "shop", addr: "192.0.2.200", want: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := &v1alpha1.ExternalIPPolicy{Spec: v1alpha1.ExternalIPPolicySpec{Grants: tt.grants}}
			if got := externalip.Granted(p, tt.ns, tt.labels, netip.MustParseAddr(tt.addr), tt.ports); got != tt.want {
				t.Errorf("Granted = %v, want %v", got, tt.want)
			}
		})
	}
	if externalip.Granted(nil, "shop", nil, netip.MustParseAddr("192.0.2.1"), nil) {
		t.Error("no policy grants something")
	}
}
