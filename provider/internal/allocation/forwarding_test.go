// SPDX-License-Identifier: Apache-2.0

package allocation_test

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/provider/internal/allocation"
	"github.com/fairlead-lb/fairlead/provider/internal/store/storetest"
)

// clock is a time that a test moves.
type clock struct{ seconds atomic.Int64 }

func (c *clock) now() time.Time { return time.Unix(1000+c.seconds.Load(), 0) }

func newIPVSLeader(t *testing.T, api *storetest.API, k kind, c *clock) *leader {
	t.Helper()
	return newLeaderWith(t, api, k, convert.Classes{Class: v1alpha1.DefaultLoadBalancerClass, Classless: true},
		allocation.Defaults{Forwarding: v1alpha1.ForwardingIPVS, Scheduler: convert.Scheduler{Name: "mh", Flags: []string{"port"}}}, c.now)
}

func specOf(t *testing.T, api *storetest.API, name string) v1alpha1.LoadBalancerSpec {
	t.Helper()
	for _, r := range api.AllRecords() {
		if r.Name == name {
			return r.Spec
		}
	}
	t.Fatalf("%s has no record", name)
	return v1alpha1.LoadBalancerSpec{}
}

func modes(svc *corev1.Service) string {
	var out []string
	for _, i := range svc.Status.LoadBalancer.Ingress {
		out = append(out, string(*i.IPMode))
	}
	return strings.Join(out, " ")
}

// allWrites are the writes, those of Services too.
func allWrites(api *storetest.API) []string {
	var out []string
	for _, c := range api.Log() {
		if c.Write() {
			out = append(out, c.Verb+" "+c.Object)
		}
	}
	return out
}

func setForwarded(api *storetest.API, name string, ok metav1.ConditionStatus) {
	api.SetCondition("default", name, metav1.Condition{Type: v1alpha1.ConditionForwarded, Status: ok, Reason: "Forwarded"})
}

func TestKnobsReachTheRecord(t *testing.T) { forBoth(t, testKnobsReachTheRecord) }

func testKnobsReachTheRecord(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/24"))
	l := newIPVSLeader(t, api, k, &clock{})
	plain := newService("plain", 1, nil)
	l.mustGet(t, plain, "192.0.2.0")
	got := specOf(t, api, "plain")
	if got.BGP != nil || got.Forwarding != v1alpha1.ForwardingIPVS || got.Scheduler != "mh" || !slices.Equal(got.SchedulerFlags, []string{"port"}) || got.TargetType != v1alpha1.TargetPod {
		t.Errorf("by default %+v", got)
	}
	hour := int32(3600)
	full := newService("full", 2, func(s *corev1.Service) {
		s.Annotations = map[string]string{
			"fairlead.dev/scheduler": "sh", "fairlead.dev/target-type": "node-port",
			corev1.AnnotationLoadBalancerSourceRangesKey: "192.0.2.0/24,10.0.0.1/8",
			v1alpha1.AnnotationBGPLocalPref:              "200", v1alpha1.AnnotationBGPCommunities: "no-export,65000:1",
		}
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &hour}}
	})
	l.mustGet(t, full, "192.0.2.1")
	got = specOf(t, api, "full")
	if got.Scheduler != "sh" || len(got.SchedulerFlags) != 0 || got.TargetType != v1alpha1.TargetNodePort || got.SessionAffinitySeconds != hour ||
		!slices.Equal(got.SourceRanges, []string{"10.0.0.0/8", "192.0.2.0/24"}) {
		t.Errorf("with all knobs %+v", got)
	}
	pref := int64(200)
	if diff := cmp.Diff(&v1alpha1.BGPOverrides{LocalPref: &pref, Communities: []string{"65000:1", "no-export"}}, got.BGP); diff != "" {
		t.Errorf("what it says of its routes (-want +got):\n%s", diff)
	}
	// Local implies pods, and what cannot be understood changes nothing of what was.
	full.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	l.mustGet(t, full, "192.0.2.1")
	if got := specOf(t, api, "full").TargetType; got != v1alpha1.TargetPod {
		t.Errorf("under Local the targets are %s", got)
	}
	before := specOf(t, api, "full")
	full.Annotations["fairlead.dev/scheduler"] = "best"
	if _, err := l.ensure(t, full); err == nil {
		t.Error("an unknown scheduler is no failure")
	}
	if got := l.ann.failed[keyOf(full)]; got != reason.InvalidAnnotation {
		t.Errorf("condition %q", got)
	}
	if diff := cmp.Diff(before, specOf(t, api, "full")); diff != "" {
		t.Errorf("record after a bad annotation (-want +got):\n%s", diff)
	}
}

// A record from before IPVS becomes one of IPVS by one write, and nothing else moves.
func TestUpgradeToIPVS(t *testing.T) { forBoth(t, testUpgradeToIPVS) }

func testUpgradeToIPVS(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/24"))
	old := newLeader(t, api, k)
	web := newService("web", 1, nil)
	old.mustGet(t, web, "192.0.2.0")
	old.crash()
	before, claim := len(writes(api)), claimOf(t, api, "192.0.2.0").Spec
	l := newIPVSLeader(t, api, k, &clock{})
	for range 3 {
		if _, err := l.sync(t, web); err != nil {
			t.Fatal(err)
		}
	}
	if got := writes(api)[before:]; !slices.Equal(got, []string{"update record/default/web"}) {
		t.Errorf("writes %q", got)
	}
	if got := specOf(t, api, "web"); got.Forwarding != v1alpha1.ForwardingIPVS || got.Addresses[0].Address != "192.0.2.0" {
		t.Errorf("record %+v", got)
	}
	if diff := cmp.Diff(claim, claimOf(t, api, "192.0.2.0").Spec); diff != "" {
		t.Errorf("claim (-before +after):\n%s", diff)
	}
	if got := modes(api.Service("default", "web")); got != "VIP" {
		t.Errorf("ipMode %s before any node forwards", got)
	}
}

// The status follows the Forwarded condition by one write per flip, whoever looks.
func TestIPModeFollowsForwarded(t *testing.T) { forBoth(t, testIPModeFollowsForwarded) }

func testIPModeFollowsForwarded(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/24"))
	l := newIPVSLeader(t, api, k, &clock{})
	web := newService("web", 1, nil)
	l.mustGet(t, web, "192.0.2.0")
	for _, step := range []struct {
		ok   metav1.ConditionStatus
		want string
	}{{metav1.ConditionTrue, "Proxy"}, {metav1.ConditionFalse, "VIP"}, {metav1.ConditionTrue, "Proxy"}} {
		before := len(allWrites(api))
		setForwarded(api, "web", step.ok)
		for range 3 {
			if _, err := l.sync(t, web); err != nil {
				t.Fatal(err)
			}
		}
		if got := modes(api.Service("default", "web")); got != step.want {
			t.Errorf("ipMode %s, want %s", got, step.want)
		}
		if got := allWrites(api)[before:]; !slices.Equal(got, []string{"patch service/default/web"}) {
			t.Errorf("writes %q", got)
		}
	}
	if k.class == "" {
		status, err := l.alloc.Ensure(quiet(t), api.Service("default", "web"))
		if err != nil || *status.Ingress[0].IPMode != corev1.LoadBalancerIPModeProxy {
			t.Errorf("Ensure: %+v, %v", status, err)
		}
	}
}

// A Service that goes to kube-proxy says so first; IPVS forwards until kube-proxy has had
// the time to hear of it.
func TestRetreatToKubeProxy(t *testing.T) { forBoth(t, testRetreatToKubeProxy) }

func testRetreatToKubeProxy(t *testing.T, k kind) {
	t.Helper()
	api, now := storetest.New(), &clock{}
	api.PutPool(newPool("a", "192.0.2.0/24"))
	l := newIPVSLeader(t, api, k, now)
	web := newService("web", 1, nil)
	l.mustGet(t, web, "192.0.2.0")
	setForwarded(api, "web", metav1.ConditionTrue)
	if _, err := l.sync(t, web); err != nil {
		t.Fatal(err)
	}
	asks := api.Service("default", "web")
	asks.Annotations = map[string]string{"fairlead.dev/data-plane": "kube-proxy"}
	api.PutService(asks)
	before := len(allWrites(api))
	look := func(mode string, forwarding v1alpha1.Forwarding) {
		t.Helper()
		for range 2 {
			if _, err := l.sync(t, web); err != nil {
				t.Fatal(err)
			}
		}
		if got := modes(api.Service("default", "web")); got != mode {
			t.Errorf("ipMode %s, want %s", got, mode)
		}
		if got := specOf(t, api, "web").Forwarding; got != forwarding {
			t.Errorf("forwarding %s, want %s", got, forwarding)
		}
	}
	look("VIP", v1alpha1.ForwardingIPVS)
	now.seconds.Add(4)
	look("VIP", v1alpha1.ForwardingIPVS)
	now.seconds.Add(2)
	look("VIP", v1alpha1.ForwardingKubeProxy)
	if got := allWrites(api)[before:]; !slices.Equal(got, []string{"patch service/default/web", "update record/default/web"}) {
		t.Errorf("writes %q", got)
	}
	asks = api.Service("default", "web")
	asks.Annotations = nil
	api.PutService(asks)
	setForwarded(api, "web", metav1.ConditionFalse)
	look("VIP", v1alpha1.ForwardingIPVS)
}
