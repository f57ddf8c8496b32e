// SPDX-License-Identifier: Apache-2.0

package convert_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

func TestForwarding(t *testing.T) {
	t.Parallel()
	const plane, scheduler, ranges = "fairlead.dev/data-plane", "fairlead.dev/scheduler", corev1.AnnotationLoadBalancerSourceRangesKey
	spec := func(change func(*corev1.ServiceSpec)) func(*corev1.Service) {
		return func(s *corev1.Service) { change(&s.Spec) }
	}
	annotated := func(pairs ...string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Annotations = withAnnotations(pairs...).Annotations }
	}
	seconds := func(n int32) func(*corev1.Service) {
		return spec(func(s *corev1.ServiceSpec) {
			s.SessionAffinity = corev1.ServiceAffinityClientIP
			s.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &n}}
		})
	}
	tests := map[string]struct {
		change   func(*corev1.Service)
		want     convert.Wishes
		mentions string
	}{
		"nothing said":            {change: annotated(plane, " ", scheduler, "")},
		"ipvs":                    {change: annotated(plane, " ipvs "), want: convert.Wishes{Forwarding: v1alpha1.ForwardingIPVS}},
		"kube-proxy":              {change: annotated(plane, "kube-proxy"), want: convert.Wishes{Forwarding: v1alpha1.ForwardingKubeProxy}},
		"neither":                 {change: annotated(plane, "IPVS"), mentions: "neither ipvs nor kube-proxy"},
		"a scheduler":             {change: annotated(scheduler, "wlc"), want: convert.Wishes{Scheduler: convert.Scheduler{Name: "wlc"}}},
		"mh with both flags":      {change: annotated(scheduler, " mh , mh-port,mh-fallback, mh-port"), want: convert.Wishes{Scheduler: convert.Scheduler{Name: "mh", Flags: []string{"fallback", "port"}}}},
		"sh with one":             {change: annotated(scheduler, "sh,sh-port"), want: convert.Wishes{Scheduler: convert.Scheduler{Name: "sh", Flags: []string{"port"}}}},
		"flags of another":        {change: annotated(scheduler, "mh,sh-port"), mentions: "no flag of scheduler mh"},
		"an empty flag":           {change: annotated(scheduler, "mh,"), mentions: "no flag"},
		"flags where none are":    {change: annotated(scheduler, "rr,mh-port"), mentions: "only sh and mh"},
		"no scheduler":            {change: annotated(scheduler, "maglev"), mentions: `"maglev" is no scheduler`},
		"affinity":                {change: seconds(60), want: convert.Wishes{AffinitySeconds: 60}},
		"affinity without a time": {change: spec(func(s *corev1.ServiceSpec) { s.SessionAffinity = corev1.ServiceAffinityClientIP }), want: convert.Wishes{AffinitySeconds: 10800}},
		"no affinity":             {change: spec(func(s *corev1.ServiceSpec) { s.SessionAffinity = corev1.ServiceAffinityNone })},
		"ranges in the spec": {change: spec(func(s *corev1.ServiceSpec) {
			s.LoadBalancerSourceRanges = []string{"2001:db8::1/32", " 10.1.2.3/8", "192.0.2.0/24", "10.0.0.0/8"}
		}), want: convert.Wishes{SourceRanges: []string{"10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"}}},
		"ranges in the annotation": {change: annotated(ranges, "192.0.2.0/24, 10.0.0.0/8"), want: convert.Wishes{SourceRanges: []string{"10.0.0.0/8", "192.0.2.0/24"}}},
		"the spec comes first": {change: func(s *corev1.Service) {
			annotated(ranges, "nonsense")(s)
			s.Spec.LoadBalancerSourceRanges = []string{"10.0.0.0/8"}
		}, want: convert.Wishes{SourceRanges: []string{"10.0.0.0/8"}}},
		"a range that is none": {change: annotated(ranges, "10.0.0.0"), mentions: ranges},
		"too many": {change: spec(func(s *corev1.ServiceSpec) {
			for i := range 257 {
				s.LoadBalancerSourceRanges = append(s.LoadBalancerSourceRanges, fmt.Sprintf("10.%d.%d.0/24", i/256, i%256))
			}
		}), mentions: "257 ranges"},
		"ranges of another type": {change: func(s *corev1.Service) {
			annotated(ranges, "nonsense")(s)
			s.Spec.Type = corev1.ServiceTypeClusterIP
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			svc := withAnnotations()
			svc.Spec.Type = corev1.ServiceTypeLoadBalancer
			tt.change(svc)
			got, err := convert.Forwarding(svc)
			if tt.mentions != "" || err != nil {
				if err == nil || tt.mentions == "" || err.Reason != reason.InvalidAnnotation || !strings.Contains(err.Message, tt.mentions) {
					t.Fatalf("%v, want one with %q", err, tt.mentions)
				}
				return
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("wishes (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParseScheduler(f *testing.F) {
	for _, s := range []string{"rr", "mh,mh-port", "sh, sh-fallback ,sh-port", ",", "mh,,"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := convert.ParseScheduler(text)
		if err != nil {
			return
		}
		again := got.Name
		for _, flag := range got.Flags {
			again += "," + got.Name + "-" + flag
		}
		if same, err := convert.ParseScheduler(again); err != nil || cmp.Diff(got, same) != "" {
			t.Errorf("%q is read as %+v, and %q as %+v, %v", text, got, again, same, err)
		}
	})
}
