// SPDX-License-Identifier: Apache-2.0

package convert_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// many writes n IPv4 addresses.
func many(n int) string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("192.0.2.%d", i))
	}
	return strings.Join(out, ",")
}

func TestKnobs(t *testing.T) {
	t.Parallel()
	const count, addresses = "fairlead.dev/address-count", "fairlead.dev/addresses"
	tests := []struct {
		name     string
		pairs    []string
		want     func(*convert.ServiceRequest)
		warnings int
		reason   reason.Reason
		mentions string
	}{
		{name: "count", pairs: []string{count, " 8 "}, want: func(r *convert.ServiceRequest) { r.Pool.Count = 8 }},
		{name: "count, none", pairs: []string{count, "0"}, reason: reason.InvalidAnnotation, mentions: "from 1 to 8"},
		{name: "count, too high", pairs: []string{count, "9"}, reason: reason.InvalidAnnotation},
		{name: "count, below nothing", pairs: []string{count, "-1"}, reason: reason.InvalidAnnotation},
		{name: "count, with a sign", pairs: []string{count, "+1"}, reason: reason.InvalidAnnotation},
		{name: "count, padded", pairs: []string{count, "01"}, reason: reason.InvalidAnnotation},
		{name: "count, not whole", pairs: []string{count, "1.5"}, reason: reason.InvalidAnnotation, mentions: count},
		{name: "count, huge", pairs: []string{count, "18446744073709551617"}, reason: reason.InvalidAnnotation},
		{name: "as many as are named", pairs: []string{count, "2", addresses, many(2) + ",2001:db8::1"}, want: func(r *convert.ServiceRequest) { r.Pool.Count = 2 }},
		{name: "fewer than are named", pairs: []string{count, "1", addresses, many(2)}, reason: reason.ConflictingRequests, mentions: "IPv4"},
		{name: "fewer than are named, IPv6", pairs: []string{count, "1", addresses, "192.0.2.1,2001:db8::1,2001:db8::2"}, reason: reason.ConflictingRequests, mentions: "IPv6"},
		{name: "eight addresses", pairs: []string{addresses, many(8)}},
		{name: "nine addresses", pairs: []string{addresses, many(9)}, reason: reason.InvalidAnnotation, mentions: "IPv4"},
		{name: "nine addresses under MetalLB's prefix", pairs: []string{"metallb.io/loadBalancerIPs", many(9)}, reason: reason.InvalidAnnotation},
		{name: "an address twice", pairs: []string{addresses, "192.0.2.1,192.0.2.1"}, reason: reason.InvalidAnnotation, mentions: "twice"},
		{name: "sharing", pairs: []string{"fairlead.dev/sharing-key", " a b "}, want: func(r *convert.ServiceRequest) { r.Pool.SharingKey = "a b" }},
		{name: "sharing under metallb.io", pairs: []string{"metallb.io/allow-shared-ip", "k"}, want: func(r *convert.ServiceRequest) { r.Pool.SharingKey = "k" }},
		{name: "sharing under metallb.universe.tf", pairs: []string{"metallb.universe.tf/allow-shared-ip", "k"}, want: func(r *convert.ServiceRequest) { r.Pool.SharingKey = "k" }},
		{name: "sharing under two prefixes", pairs: []string{"fairlead.dev/sharing-key", "k", "metallb.io/allow-shared-ip", "l"}, want: func(r *convert.ServiceRequest) { r.Pool.SharingKey = "k" }, warnings: 1},
		{name: "MetalLB's word under our prefix means nothing", pairs: []string{"fairlead.dev/allow-shared-ip", "k"}},
		{name: "the reserved key", pairs: []string{"metallb.io/allow-shared-ip", pool.ExternalKey}, reason: reason.InvalidAnnotation, mentions: "reserved"},
		{name: "the longest key", pairs: []string{"fairlead.dev/sharing-key", strings.Repeat("k", 253)}, want: func(r *convert.ServiceRequest) { r.Pool.SharingKey = strings.Repeat("k", 253) }},
		{name: "a longer key", pairs: []string{"fairlead.dev/sharing-key", strings.Repeat("k", 254)}, reason: reason.InvalidAnnotation},
		{name: "retain", pairs: []string{"fairlead.dev/reclaim-policy", "Retain"}, want: func(r *convert.ServiceRequest) { r.Reclaim = v1alpha1.ReclaimRetain }},
		{name: "delete", pairs: []string{"fairlead.dev/reclaim-policy", "Delete"}, want: func(r *convert.ServiceRequest) { r.Reclaim = v1alpha1.ReclaimDelete }},
		{name: "retain, in lower case", pairs: []string{"fairlead.dev/reclaim-policy", "retain"}, reason: reason.InvalidAnnotation, mentions: "Retain"},
		{name: "pod, said", pairs: []string{"fairlead.dev/target-type", "pod"}, want: func(r *convert.ServiceRequest) { r.TargetType = v1alpha1.TargetPod }},
		{name: "advertisements", pairs: []string{"fairlead.dev/advertisements", "lan, dmz.x,lan"}},
		{name: "advertisements, blank", pairs: []string{"fairlead.dev/advertisements", " "}},
		{name: "advertisements, a bad name", pairs: []string{"fairlead.dev/advertisements", "lan,Lan"}, reason: reason.InvalidAnnotation, mentions: `"Lan"`},
		{name: "advertisements, a trailing comma", pairs: []string{"fairlead.dev/advertisements", "lan,"}, reason: reason.InvalidAnnotation},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, fault := convert.Service(withAnnotations(tt.pairs...))
			if tt.reason != "" || fault != nil {
				if fault == nil || fault.Reason != tt.reason || !strings.Contains(fault.Message, tt.mentions) {
					t.Fatalf("fault %v, want reason %q and mention of %q", fault, tt.reason, tt.mentions)
				}
				return
			}
			want, _ := convert.Service(withAnnotations())
			if tt.want != nil {
				tt.want(want)
			}
			if len(got.Warnings) != tt.warnings {
				t.Errorf("warnings %v, want %d", got.Warnings, tt.warnings)
			}
			got.Pool.Addresses, got.Warnings = nil, nil
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBackends(t *testing.T) {
	t.Parallel()
	of := func(policy corev1.ServiceExternalTrafficPolicy, selector map[string]string) string {
		return convert.Backends(&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{UID: "uid"},
			Spec:       corev1.ServiceSpec{ExternalTrafficPolicy: policy, Selector: selector},
		})
	}
	const local, cluster = corev1.ServiceExternalTrafficPolicyLocal, corev1.ServiceExternalTrafficPolicyCluster
	ab := of(local, map[string]string{"a": "1", "b": "2"})
	if len(ab) != 16 || strings.Trim(ab, "0123456789abcdef") != "" {
		t.Errorf("digest %q", ab)
	}
	for range 20 {
		if again := of(local, map[string]string{"b": "2", "a": "1"}); again != ab {
			t.Errorf("digest depends on the order: %q, %q", ab, again)
		}
	}
	others := []string{
		of(local, map[string]string{"a": "1"}), of(local, map[string]string{"a": "2", "b": "1"}),
		of(local, map[string]string{"a": `1","b"="2`}), of(cluster, map[string]string{"a": "1", "b": "2"}), of(local, nil),
	}
	if slices.Contains(others, ab) {
		t.Errorf("other selectors have the digest %q too: %q", ab, others)
	}
	if others[3] != "" || others[4] != "uid" {
		t.Errorf("backends under Cluster %q, without a selector %q", others[3], others[4])
	}
}

func TestExternalIPs(t *testing.T) {
	t.Parallel()
	svc := &corev1.Service{Spec: corev1.ServiceSpec{ExternalIPs: []string{"192.0.2.1", "2001:db8::1", "x", "192.0.2.1", "::ffff:192.0.2.2", "fe80::1%eth0"}}}
	want := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	if diff := cmp.Diff(want, convert.ExternalIPs(svc), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("external IPs (-want +got):\n%s", diff)
	}
}

func TestClasses(t *testing.T) {
	t.Parallel()
	ours, other, now := v1alpha1.DefaultLoadBalancerClass, "example.com/x", metav1.Now()
	tests := map[string]struct {
		change          func(*corev1.Service)
		open, exclusive bool
	}{
		"no class":      {func(*corev1.Service) {}, true, false},
		"our class":     {func(s *corev1.Service) { s.Spec.LoadBalancerClass = &ours }, true, true},
		"another class": {func(s *corev1.Service) { s.Spec.LoadBalancerClass = &other }, false, false},
		"cluster IP":    {func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP }, false, false},
		"on its way":    {func(s *corev1.Service) { s.Spec.LoadBalancerClass, s.DeletionTimestamp = &ours, &now }, false, false},
	}
	for name, tt := range tests {
		svc := &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}}
		tt.change(svc)
		open, exclusive := convert.Classes{Class: ours, Classless: true}, convert.Classes{Class: ours}
		if got := open.Serves(svc); got != tt.open {
			t.Errorf("%s: served %v", name, got)
		}
		if got := exclusive.Serves(svc); got != tt.exclusive {
			t.Errorf("%s: served %v without classless", name, got)
		}
	}
}

func TestHolding(t *testing.T) {
	t.Parallel()
	c := &v1alpha1.IPClaim{Spec: v1alpha1.IPClaimSpec{
		SharingKey: "k", Phase: v1alpha1.ClaimRetained,
		Services: []v1alpha1.ServiceReference{{Namespace: "n", Name: "web", UID: "u", Backends: "b", Ports: []v1alpha1.Port{{Name: "x", Protocol: "UDP", Port: 65535}}}},
	}}
	want := pool.Holding{State: pool.Retained, SharingKey: "k", Tenants: []pool.Tenant{{
		Service: convert.Key(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "web"}}), UID: "u", Backends: "b",
		Ports: []pool.Port{{Protocol: "UDP", Number: 65535}},
	}}}
	if diff := cmp.Diff(want, convert.Holding(c)); diff != "" {
		t.Errorf("holding (-want +got):\n%s", diff)
	}
	for phase, state := range map[v1alpha1.ClaimPhase]pool.State{v1alpha1.ClaimBound: pool.Bound, v1alpha1.ClaimReleasing: pool.Releasing, "Later": pool.Releasing} {
		c.Spec.Phase = phase
		if got := convert.Holding(c).State; got != state {
			t.Errorf("phase %s: state %d", phase, got)
		}
	}
}

func TestPoolIsReadWhole(t *testing.T) {
	t.Parallel()
	off := false
	p := &v1alpha1.IPAddressPool{
		ObjectMeta: metav1.ObjectMeta{Name: "p", CreationTimestamp: metav1.Unix(7, 0)},
		Spec: v1alpha1.IPAddressPoolSpec{
			Addresses: []string{"a"}, ExcludedAddresses: []string{"b"}, AutoAssign: &off, AvoidBuggyIPs: true, Disabled: true,
		},
	}
	want := pool.Spec{Name: "p", Created: 7_000_000_000, Addresses: []string{"a"}, Excluded: []string{"b"}, AvoidBuggyIPs: true, Disabled: true}
	if diff := cmp.Diff(want, convert.Pool(p)); diff != "" {
		t.Errorf("pool (-want +got):\n%s", diff)
	}
}

// FuzzService reads arbitrary annotations: nothing panics, and what is accepted is
// within bounds and means the same when it is read again.
func FuzzService(f *testing.F) {
	f.Add("192.0.2.1,2001:db8::1", "2", "k", "lan,dmz", "Retain", "node-port", "192.0.2.1")
	f.Add(many(8), "8", "spec.externalIPs", "a.b", "Delete", "pod", "")
	f.Add("::ffff:1.2.3.4", "+1", strings.Repeat("k", 254), ",", "retain", " ", "fe80::1%eth0")
	f.Add(" , ", "٣", "\x00\xff", "-", "\n", "POD", "1.2.3.4,")
	f.Fuzz(func(t *testing.T, addresses, count, key, ads, reclaim, target, lbip string) {
		svc := withAnnotations(
			"fairlead.dev/addresses", addresses, "fairlead.dev/address-count", count, "metallb.io/allow-shared-ip", key,
			"fairlead.dev/advertisements", ads, "fairlead.dev/reclaim-policy", reclaim, "fairlead.dev/target-type", target)
		svc.Spec.LoadBalancerIP = lbip
		r, fault := convert.Service(svc)
		if fault != nil {
			if fault.Reason != reason.InvalidAnnotation && fault.Reason != reason.ConflictingRequests || fault.Message == "" {
				t.Errorf("fault %s %q", fault.Reason, fault.Message)
			}
			return
		}
		perFamily := make(map[pool.Family]int)
		var text []string
		for i, a := range r.Pool.Addresses {
			if a.Zone() != "" || a.Is4In6() || slices.Contains(r.Pool.Addresses[:i], a) {
				t.Errorf("addresses %v", r.Pool.Addresses)
			}
			perFamily[pool.FamilyOf(a)]++
			text = append(text, a.String())
		}
		for _, n := range perFamily {
			if n > v1alpha1.MaxAddressesPerFamily || r.Pool.Count > 0 && n > r.Pool.Count {
				t.Errorf("%v named with count %d", r.Pool.Addresses, r.Pool.Count)
			}
		}
		if r.Pool.Count < 0 || r.Pool.Count > v1alpha1.MaxAddressesPerFamily || len(r.Pool.SharingKey) > 253 || r.Pool.SharingKey == pool.ExternalKey {
			t.Errorf("count %d, key %q", r.Pool.Count, r.Pool.SharingKey)
		}
		names, _ := convert.Advertisements(svc)
		svc = withAnnotations("fairlead.dev/addresses", strings.Join(text, ","), "fairlead.dev/advertisements", strings.Join(names, ","),
			"fairlead.dev/sharing-key", r.Pool.SharingKey, "fairlead.dev/reclaim-policy", string(r.Reclaim), "fairlead.dev/target-type", string(r.TargetType))
		again, fault := convert.Service(svc)
		if fault != nil {
			t.Fatalf("what was read does not read back: %v", fault)
		}
		r.Pool.Count, r.Warnings = 0, nil
		if diff := cmp.Diff(r, again, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("read back (-first +second):\n%s", diff)
		}
	})
}

func TestAdvertisements(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, value string
		want        []string
		fault       bool
	}{
		{name: "none"},
		{name: "blank", value: " "},
		{name: "two, one of them twice", value: "lan, dmz.x,lan", want: []string{"lan", "dmz.x"}},
		{name: "a bad name still limits", value: "Lan", want: []string{"Lan"}, fault: true},
		{name: "a trailing comma", value: "lan,", want: []string{"lan"}, fault: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, fault := convert.Advertisements(withAnnotations(v1alpha1.AnnotationAdvertisements, tt.value))
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateEmpty()); diff != "" || tt.fault != (fault != nil) {
				t.Errorf("fault %v, names (-want +got):\n%s", fault, diff)
			}
		})
	}
}
