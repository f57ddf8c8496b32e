// SPDX-License-Identifier: Apache-2.0

package convert_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
)

func forwarded() (*v1alpha1.LoadBalancer, loadbalancer.Record) {
	in := &v1alpha1.LoadBalancer{
		ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "svc", ResourceVersion: "77"},
		Spec: v1alpha1.LoadBalancerSpec{
			ServiceUID: "u", Forwarding: v1alpha1.ForwardingIPVS, TargetType: v1alpha1.TargetNodePort,
			Ports:     []v1alpha1.Port{{Name: "http", Protocol: "TCP", Port: 80, NodePort: 30080}, {Name: "dns", Protocol: "UDP", Port: 53}, {Protocol: "SCTP", Port: 65535}},
			Scheduler: "mh", SchedulerFlags: []string{"port", "fallback"}, SessionAffinitySeconds: 600,
			SourceRanges: []string{"203.0.113.9/24", "2001:db8::/32", "203.0.113.0/25"}, NodeAddresses: []string{"10.0.0.1", "fd00::1"},
		},
	}
	return in, loadbalancer.Record{
		UID: "u", Service: loadbalancer.ServiceKey{Namespace: "d", Name: "svc"}, DataPlane: loadbalancer.IPVS, Targets: loadbalancer.TargetNodePort,
		Ports: []loadbalancer.ServicePort{
			{Name: "http", Protocol: loadbalancer.TCP, Port: 80, NodePort: 30080},
			{Name: "dns", Protocol: loadbalancer.UDP, Port: 53},
			{Protocol: loadbalancer.SCTP, Port: 65535},
		},
		Scheduler: "mh", Flags: loadbalancer.SchedPort | loadbalancer.SchedFallback, Affinity: 10 * time.Minute,
		Sources:   []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8::/32")},
		NodeAddrs: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}, Revision: "77",
	}
}

func TestRecordForwarding(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change func(s *v1alpha1.LoadBalancerSpec)
		want   func(r *loadbalancer.Record)
		err    string
	}{
		"as it is": {},
		"left to kube-proxy": {
			change: func(s *v1alpha1.LoadBalancerSpec) {
				s.Forwarding, s.TargetType = v1alpha1.ForwardingKubeProxy, v1alpha1.TargetPod
			},
			want: func(r *loadbalancer.Record) { r.DataPlane, r.Targets = loadbalancer.KubeProxy, loadbalancer.TargetPod },
		},
		"a data plane of a later release": {
			change: func(s *v1alpha1.LoadBalancerSpec) { s.Forwarding = "ebpf" },
			want:   func(r *loadbalancer.Record) { r.DataPlane = loadbalancer.KubeProxy },
		},
		"a port that is none": {
			change: func(s *v1alpha1.LoadBalancerSpec) {
				s.Ports[0].Port, s.Ports[1].Protocol, s.Ports[2].NodePort = 65536, "QUIC", -1
			},
			want: func(r *loadbalancer.Record) { r.Ports = nil }, err: "QUIC 53",
		},
		"a flag of a later release": {
			change: func(s *v1alpha1.LoadBalancerSpec) { s.SchedulerFlags[0] = "new" },
			want:   func(r *loadbalancer.Record) { r.Flags = loadbalancer.SchedFallback }, err: `unknown flag "new"`,
		},
		"a node address that is none": {
			change: func(s *v1alpha1.LoadBalancerSpec) { s.NodeAddresses[0] = "x" },
			want:   func(r *loadbalancer.Record) { r.NodeAddrs = r.NodeAddrs[1:] }, err: "nodeAddresses",
		},
		"everybody": {
			change: func(s *v1alpha1.LoadBalancerSpec) { s.SourceRanges = []string{"192.0.2.0/24", "0.0.0.0/0"} },
			want:   func(r *loadbalancer.Record) { r.Sources = nil },
		},
		"a source range that is none lets nobody in": {
			change: func(s *v1alpha1.LoadBalancerSpec) { s.SourceRanges = []string{"x"} },
			want:   func(r *loadbalancer.Record) { r.DataPlane, r.Sources = loadbalancer.KubeProxy, nil }, err: "sourceRanges",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in, want := forwarded()
			if tt.change != nil {
				tt.change(&in.Spec)
			}
			if tt.want != nil {
				tt.want(&want)
			}
			got, err := convert.Record(in)
			if diff := cmp.Diff(want, got, values()); diff != "" {
				t.Errorf("Record (-want +got):\n%s", diff)
			}
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
}

func TestNodePodCIDRs(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		spec corev1.NodeSpec
		want []netip.Prefix
	}{
		"none":       {},
		"both":       {corev1.NodeSpec{PodCIDR: "10.1.1.0/24", PodCIDRs: []string{"10.1.1.0/24", "fd01::/64"}}, []netip.Prefix{netip.MustParsePrefix("10.1.1.0/24"), netip.MustParsePrefix("fd01::/64")}},
		"the old":    {corev1.NodeSpec{PodCIDR: "10.1.1.0/24"}, []netip.Prefix{netip.MustParsePrefix("10.1.1.0/24")}},
		"one is bad": {corev1.NodeSpec{PodCIDRs: []string{"x", "10.1.1.0/24"}}, []netip.Prefix{netip.MustParsePrefix("10.1.1.0/24")}},
	} {
		if diff := cmp.Diff(tt.want, convert.Node(&corev1.Node{Spec: tt.spec}).PodCIDRs, values()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
