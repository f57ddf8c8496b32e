// SPDX-License-Identifier: Apache-2.0

package convert_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
)

func sliceOf(weight string, ports []discoveryv1.EndpointPort, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	out := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: "s"}, AddressType: discoveryv1.AddressTypeIPv4, Ports: ports, Endpoints: endpoints}
	if weight != "" {
		out.Annotations = map[string]string{v1alpha1.AnnotationWeight: weight}
	}
	return out
}

func endpoint(addr, node string, ready, serving, terminating *bool) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{
		Addresses: []string{addr}, Conditions: discoveryv1.EndpointConditions{Ready: ready, Serving: serving, Terminating: terminating},
	}
	if node != "" {
		e.NodeName = &node
	}
	return e
}

func TestBackendsOf(t *testing.T) {
	t.Parallel()
	one := []discoveryv1.EndpointPort{{Port: new(int32(8080))}}
	web := loadbalancer.Backend{
		Addr: netip.MustParseAddr("10.1.1.7"), Protocol: loadbalancer.TCP, Port: 8080, Node: "a", Weight: 1, Ready: true, Serving: true,
	}
	with := func(change func(b *loadbalancer.Backend)) loadbalancer.Backend {
		b := web
		change(&b)
		return b
	}
	tests := map[string]struct {
		in   []*discoveryv1.EndpointSlice
		want []loadbalancer.Backend
		err  string
	}{
		"none": {},
		"conditions that are not set": {
			in: []*discoveryv1.EndpointSlice{sliceOf("", one, endpoint("10.1.1.7", "a", nil, nil, nil))}, want: []loadbalancer.Backend{web},
		},
		"terminating": {
			in:   []*discoveryv1.EndpointSlice{sliceOf("", one, endpoint("10.1.1.7", "a", new(false), new(true), new(true)))},
			want: []loadbalancer.Backend{with(func(b *loadbalancer.Backend) { b.Ready, b.Terminating = false, true })},
		},
		"not ready": {
			in:   []*discoveryv1.EndpointSlice{sliceOf("", one, endpoint("10.1.1.7", "a", new(false), new(false), new(false)))},
			want: []loadbalancer.Backend{with(func(b *loadbalancer.Backend) { b.Ready, b.Serving = false, false })},
		},
		"no node": {
			in:   []*discoveryv1.EndpointSlice{sliceOf("", one, endpoint("10.1.1.7", "", nil, nil, nil))},
			want: []loadbalancer.Backend{with(func(b *loadbalancer.Backend) { b.Node = "" })},
		},
		"several ports, by name": {
			in: []*discoveryv1.EndpointSlice{sliceOf("", []discoveryv1.EndpointPort{
				{Name: new("tls"), Port: new(int32(8443)), Protocol: new(corev1.Protocol("TCP"))},
				{Name: new("dns"), Port: new(int32(53)), Protocol: new(corev1.Protocol("UDP"))},
				{Name: new("all")},
				{Name: new("odd"), Port: new(int32(1)), Protocol: new(corev1.Protocol("DCCP"))},
				{Name: new("zero"), Port: new(int32(0))},
			}, endpoint("10.1.1.7", "a", nil, nil, nil))},
			want: []loadbalancer.Backend{
				with(func(b *loadbalancer.Backend) { b.PortName, b.Protocol, b.Port = "dns", loadbalancer.UDP, 53 }),
				with(func(b *loadbalancer.Backend) { b.PortName, b.Port = "tls", 8443 }),
			},
		},
		"in two slices at a time": {
			in: []*discoveryv1.EndpointSlice{
				sliceOf("", one, endpoint("10.1.1.7", "a", new(false), new(false), nil)), sliceOf("3", one, endpoint("10.1.1.7", "a", nil, nil, nil)),
			},
			want: []loadbalancer.Backend{with(func(b *loadbalancer.Backend) { b.Weight = 3 })},
		},
		"only the first address": {
			in:   []*discoveryv1.EndpointSlice{sliceOf("", one, discoveryv1.Endpoint{Addresses: []string{"10.1.1.7", "10.1.1.8"}, NodeName: new("a")})},
			want: []loadbalancer.Backend{web},
		},
		"weights of slice and node": {
			in: []*discoveryv1.EndpointSlice{
				sliceOf("", one, endpoint("10.1.1.7", "a", nil, nil, nil), endpoint("10.1.1.8", "heavy", nil, nil, nil)),
				sliceOf("100", one, endpoint("10.1.1.9", "heavy", nil, nil, nil)),
			},
			want: []loadbalancer.Backend{
				web, with(func(b *loadbalancer.Backend) { b.Addr, b.Node, b.Weight = netip.MustParseAddr("10.1.1.8"), "heavy", 7 }),
				with(func(b *loadbalancer.Backend) {
					b.Addr, b.Node, b.Weight = netip.MustParseAddr("10.1.1.9"), "heavy", 100
				}),
			},
		},
		"a weight that is none": {
			in: []*discoveryv1.EndpointSlice{sliceOf("101", one, endpoint("10.1.1.7", "a", nil, nil, nil))}, want: []loadbalancer.Backend{web}, err: `"101" is not a number from 1 to 100`,
		},
		"an address that is none": {
			in:   []*discoveryv1.EndpointSlice{sliceOf("", one, endpoint("fe80::1%eth0", "a", nil, nil, nil), discoveryv1.Endpoint{}, endpoint("10.1.1.7", "a", nil, nil, nil))},
			want: []loadbalancer.Backend{web}, err: "fe80::1%eth0",
		},
		"names": {in: []*discoveryv1.EndpointSlice{{AddressType: discoveryv1.AddressTypeFQDN, Ports: one, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"db.example.com"}}}}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range 3 {
				got, err := convert.BackendsOf(tt.in, map[loadbalancer.NodeName]uint16{"heavy": 7})
				if diff := cmp.Diff(tt.want, got, values()); diff != "" {
					t.Errorf("BackendsOf (-want +got):\n%s", diff)
				}
				if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				rand.Shuffle(len(tt.in), func(i, j int) { tt.in[i], tt.in[j] = tt.in[j], tt.in[i] }) // the order does not matter
			}
		})
	}
}

func FuzzWeight(f *testing.F) {
	for _, s := range []string{"", "0", "1", "100", "101", "+1", "1e1", "-5", " 1", "99999999999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		w, err := convert.Weight(map[string]string{v1alpha1.AnnotationWeight: s})
		if err == nil && (w < 1 || w > 100) || err != nil && w != 0 {
			t.Errorf("weight %d, error %v of %q", w, err, s)
		}
	})
}

func TestNoWeight(t *testing.T) {
	t.Parallel()
	if w, err := convert.Weight(map[string]string{"other": "x"}); w != 0 || err != nil {
		t.Errorf("weight %d, error %v", w, err)
	}
}

// Of ranges that lie in one another only the widest stays.
func TestDisjoint(t *testing.T) {
	t.Parallel()
	var in []netip.Prefix
	for _, s := range []string{"10.1.2.3/24", "10.0.0.0/8", "fd00::1/64", "10.0.0.0/8", "192.168.0.0/24", "192.168.1.0/24", "fd00::/48", "10.255.255.255/32"} {
		in = append(in, netip.MustParsePrefix(s))
	}
	before := slices.Clone(in)
	var got []string
	for _, p := range loadbalancer.Disjoint(in) {
		got = append(got, p.String())
	}
	if want := []string{"10.0.0.0/8", "192.168.0.0/24", "192.168.1.0/24", "fd00::/48"}; !slices.Equal(got, want) {
		t.Errorf("Disjoint %v, want %v", got, want)
	}
	if !slices.Equal(in, before) {
		t.Error("the input was changed")
	}
}
