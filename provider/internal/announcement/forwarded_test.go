// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// agents are those of a bed.
func agents() []string { return []string{"control-plane", "worker", "worker2", "worker3"} }

// agent changes what a node's agent says.
func (b *bed) agent(t *testing.T, name string, change func(*v1alpha1.NodeAgentStatus)) {
	t.Helper()
	a, found := b.agents.Find(name)
	if !found {
		t.Fatalf("no agent %s", name)
	}
	change(&a.Status)
	b.agents.Put(t, a)
}

func says(d v1alpha1.DataPlaneStatus) func(*v1alpha1.NodeAgentStatus) {
	return func(s *v1alpha1.NodeAgentStatus) { s.DataPlane = d }
}

// programmed is a node that has programmed everything.
func programmed() func(*v1alpha1.NodeAgentStatus) {
	return says(v1alpha1.DataPlaneStatus{Forwarding: v1alpha1.ForwardingIPVS, Revision: "1000000"})
}

func leftFor(why reason.Reason, message string) func(*v1alpha1.NodeAgentStatus) {
	return says(v1alpha1.DataPlaneStatus{Forwarding: v1alpha1.ForwardingKubeProxy, Reason: why.String(), Message: message})
}

func readyBecause(status metav1.ConditionStatus, why reason.Reason) func(*v1alpha1.NodeAgentStatus) {
	return func(s *v1alpha1.NodeAgentStatus) {
		meta.SetStatusCondition(&s.Conditions, metav1.Condition{Type: v1alpha1.ConditionReady, Status: status, Reason: why.String()})
	}
}

// startIPVS is a bed with a record of IPVS that a node announces; the agents say nothing yet.
func startIPVS(t *testing.T) *bed {
	t.Helper()
	b := start(t)
	b.allocate(t, 200)
	r, _ := b.records.Find("default/svc200")
	r.Spec.Forwarding = v1alpha1.ForwardingIPVS
	b.records.Put(t, r)
	b.own(t, 200, "worker", 1)
	return b
}

// startForwarded is that with every node forwarding.
func startForwarded(t *testing.T) *bed {
	t.Helper()
	b := startIPVS(t)
	for _, name := range agents() {
		b.agent(t, name, programmed())
	}
	wait(t, time.Second)
	b.wantForwarded(t, reason.Forwarded, "")
	b.drain()
	return b
}

func (b *bed) wantForwarded(t *testing.T, why reason.Reason, says string) {
	t.Helper()
	c := b.condition(t, 200, v1alpha1.ConditionForwarded)
	if c.Reason != why.String() || (c.Status == metav1.ConditionTrue) != (why == reason.Forwarded) || !strings.Contains(c.Message, says) {
		t.Errorf("Forwarded %s %s %q, want %s with %q", c.Status, c.Reason, c.Message, why, says)
	}
}

// A record is forwarded once the last node has programmed this version of it.
func TestForwardedOnceEveryNodeHasIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startIPVS(t)
		r, _ := b.records.Find("default/svc200")
		for _, name := range agents()[:3] {
			b.agent(t, name, says(v1alpha1.DataPlaneStatus{Forwarding: v1alpha1.ForwardingIPVS, Revision: r.ResourceVersion}))
		}
		wait(t, time.Second)
		b.wantForwarded(t, reason.NotEveryNode, "node worker3 does not say")
		b.agent(t, "worker3", says(v1alpha1.DataPlaneStatus{Forwarding: v1alpha1.ForwardingIPVS, Revision: "0"}))
		wait(t, time.Second)
		b.wantForwarded(t, reason.NotEveryNode, "until every node has programmed")
		b.drain()
		wait(t, 15*time.Second)
		b.wantForwarded(t, reason.NotEveryNode, "which node worker3 has not")
		b.wantWrites(t, "apply default/svc200", 1)
		// Its own status has made the record's version grow meanwhile: that does not count.
		b.agent(t, "worker3", says(v1alpha1.DataPlaneStatus{Forwarding: v1alpha1.ForwardingIPVS, Revision: r.ResourceVersion}))
		wait(t, time.Second)
		b.wantForwarded(t, reason.Forwarded, "every node")
		b.wantWrites(t, "apply default/svc200", 1)
		for i := range 100 { // nodes go on telling of other records
			b.agent(t, "worker", says(v1alpha1.DataPlaneStatus{Forwarding: v1alpha1.ForwardingIPVS, Revision: fmt.Sprint(1000 + i), VirtualServers: int32(i)}))
		}
		wait(t, time.Minute)
		b.wantNoWrite(t)
	})
}

// What is late, restarting, new or gone takes nothing back.
func TestForwardedIsSticky(t *testing.T) {
	tests := map[string]func(t *testing.T, b *bed){
		"an agent restarts": func(t *testing.T, b *bed) {
			t.Helper()
			b.agent(t, "worker", readyBecause(metav1.ConditionFalse, reason.Restarting))
			wait(t, 5*time.Second)
			b.agent(t, "worker", says(v1alpha1.DataPlaneStatus{}))
			wait(t, 5*time.Second)
			b.agent(t, "worker", readyBecause(metav1.ConditionTrue, "Running"))
			wait(t, 5*time.Second)
			b.agent(t, "worker", says(v1alpha1.DataPlaneStatus{Forwarding: v1alpha1.ForwardingIPVS}))
		},
		"all restart at once": func(t *testing.T, b *bed) {
			t.Helper()
			for _, name := range agents() {
				b.agent(t, name, readyBecause(metav1.ConditionFalse, reason.Restarting))
				b.agent(t, name, leftFor(reason.Restarting, ""))
			}
			wait(t, 20*time.Second)
			for _, name := range agents() {
				b.agent(t, name, programmed())
				b.agent(t, name, readyBecause(metav1.ConditionTrue, "Running"))
			}
		},
		"a node leaves": func(t *testing.T, b *bed) {
			t.Helper()
			b.agent(t, "worker2", leftFor(reason.Leaving, ""))
			b.agent(t, "worker2", readyBecause(metav1.ConditionFalse, reason.Leaving))
			wait(t, time.Minute)
			b.agents.Remove("worker2")
		},
		"a node comes, and begins": func(t *testing.T, b *bed) {
			t.Helper()
			b.nodes.Put(t, testNode("worker4", nil))
			b.agents.Put(t, testAgent("worker4", "172.20.0.9/16"))
			wait(t, 20*time.Second)
			b.agent(t, "worker4", says(v1alpha1.DataPlaneStatus{Forwarding: v1alpha1.ForwardingIPVS, Revision: "1"}))
		},
		"every node is lost to the API server": func(t *testing.T, b *bed) {
			t.Helper()
			for _, name := range agents() {
				n, _ := b.nodes.Find(name)
				n.Status.Conditions[0].Status = corev1.ConditionUnknown
				b.nodes.Put(t, n)
			}
		},
		"an agent that says nothing comes and goes": func(t *testing.T, b *bed) {
			t.Helper()
			b.agents.Put(t, &v1alpha1.NodeAgent{ObjectMeta: metav1.ObjectMeta{Name: "worker5"}})
			wait(t, time.Second)
			b.agents.Remove("worker5")
		},
		"a node cannot program it for a moment": func(t *testing.T, b *bed) {
			t.Helper()
			b.agent(t, "worker", func(s *v1alpha1.NodeAgentStatus) {
				s.DataPlane.Waiting = []v1alpha1.WaitingRecord{{Name: "default/svc200", Reason: "KernelRefuses"}}
			})
			wait(t, 9*time.Second)
			b.agent(t, "worker", programmed())
		},
	}
	for name, disturb := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := startForwarded(t)
				disturb(t, b)
				wait(t, 2*time.Minute)
				b.wantForwarded(t, reason.Forwarded, "")
				b.wantWrites(t, "apply default/svc200", 0)
			})
		})
	}
}

// What lasts, or is said in so many words, gives the record back to kube-proxy.
func TestForwardedGoesBack(t *testing.T) {
	tests := map[string]struct {
		disturb func(t *testing.T, b *bed)
		within  time.Duration
		why     reason.Reason
		says    string
	}{
		"a node loses ip_vs": {func(t *testing.T, b *bed) {
			t.Helper()
			b.agent(t, "worker", leftFor(reason.KernelWithoutIPVS, "no ip_vs."))
		}, time.Second, reason.NotEveryNode, "on some nodes: node worker (KernelWithoutIPVS): no ip_vs"},
		"every node has none": {func(t *testing.T, b *bed) {
			t.Helper()
			for _, name := range agents() {
				b.agent(t, name, leftFor(reason.KernelWithoutIPVS, "no ip_vs"))
			}
		}, time.Second, reason.KernelWithoutIPVS, "on every node: node control-plane, worker, worker2 and others (KernelWithoutIPVS)"},
		"kube-proxy removes what is not its": {func(t *testing.T, b *bed) {
			t.Helper()
			b.agent(t, "worker3", leftFor(reason.KubeProxyExcludeCIDRs, "set ipvs.excludeCIDRs"))
		}, time.Second, reason.KubeProxyExcludeCIDRs, "set ipvs.excludeCIDRs"},
		"a node cannot program it": {func(t *testing.T, b *bed) {
			t.Helper()
			b.agent(t, "worker", func(s *v1alpha1.NodeAgentStatus) {
				s.DataPlane.Waiting = []v1alpha1.WaitingRecord{{Name: "default/svc200", Reason: "KernelRefuses", Message: "no memory"}}
			})
		}, 12 * time.Second, reason.NotEveryNode, "node worker (KernelRefuses): no memory"},
		"an agent of an earlier release": {func(t *testing.T, b *bed) {
			t.Helper()
			b.agent(t, "worker", says(v1alpha1.DataPlaneStatus{}))
		}, 32 * time.Second, reason.NotEveryNode, "agent of node worker does not say"},
		"no agent is left": {func(t *testing.T, b *bed) {
			t.Helper()
			for _, name := range agents() {
				b.agents.Remove(name)
			}
		}, time.Second, reason.NotEveryNode, "no node agent"},
		"it is asked for": {func(t *testing.T, b *bed) {
			t.Helper()
			r, _ := b.records.Find("default/svc200")
			r.Spec.Forwarding = v1alpha1.ForwardingKubeProxy
			b.records.Put(t, r)
		}, time.Second, reason.LeftToKubeProxy, "asks"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := startForwarded(t)
				tt.disturb(t, b)
				wait(t, tt.within)
				b.wantForwarded(t, tt.why, tt.says)
				b.wantWrites(t, "apply default/svc200", 1)
				wait(t, 5*time.Minute)
				b.wantForwarded(t, tt.why, tt.says)
				b.wantNoWrite(t)
			})
		})
	}
}

// A node that says now this, now that, moves a record at growing intervals only.
func TestRelapsesAreDamped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startForwarded(t)
		flips := 0
		for range 60 { // ten minutes
			b.agent(t, "worker", leftFor(reason.KernelRefuses, "busy"))
			wait(t, 5*time.Second)
			b.agent(t, "worker", programmed())
			wait(t, 5*time.Second)
			for _, w := range b.drain() {
				if w == "apply default/svc200" {
					flips++
				}
			}
		}
		if flips > 20 {
			t.Errorf("%d writes", flips)
		}
		wait(t, lastHold)
		b.wantForwarded(t, reason.Forwarded, "")
	})
}

// A record with addresses of nodes only has them, and nobody announces them.
func TestOnNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.services.Put(t, svc(200))
		b.slices.Put(t, endpointSlice("svc200", "worker"))
		b.records.Put(t, &v1alpha1.LoadBalancer{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "svc200"},
			Spec: v1alpha1.LoadBalancerSpec{
				ServiceUID: "uid-svc200", NodeAddresses: []string{"172.20.0.3"}, Forwarding: v1alpha1.ForwardingIPVS,
				ExternalTrafficPolicy: v1alpha1.TrafficPolicyCluster, TargetType: v1alpha1.TargetPod,
			},
		})
		for _, name := range agents() {
			b.agent(t, name, programmed())
		}
		wait(t, time.Minute)
		for _, name := range []string{v1alpha1.ConditionAllocated, v1alpha1.ConditionAnnounced, v1alpha1.ConditionForwarded, v1alpha1.ConditionReady} {
			if c := b.condition(t, 200, name); c.Status != metav1.ConditionTrue {
				t.Errorf("%s: %s %s", name, c.Reason, c.Message)
			}
		}
		b.wantWrites(t, "apply default/svc200", 1)
	})
}

// Addresses of no pool are announced by advertisements of every pool only.
func TestAdvertisementsOfNoPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		w := b.worlds.get()
		free := []v1alpha1.LoadBalancerAddress{{Address: "172.20.9.9", Claim: "172.20.9.9", Rule: v1alpha1.RuleExternalIP}}
		if got := wishOf(w, free, svc(1)); len(got.ads) != 0 {
			t.Errorf("announced by %v", got.references(nil))
		}
		says := wishOf(w, free, svc(1)).whyNoAdvertisement(poolsOf(free)).message
		if !strings.Contains(says, "selects every pool, as an address outside of all of them needs, and this Service") {
			t.Errorf("message %q", says)
		}
		b.ads.Put(t, &v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "all"}})
		wait(t, time.Second)
		if got := wishOf(b.worlds.get(), free, svc(1)).references(nil); len(got) != 1 || got[0].Name != "all" {
			t.Errorf("announced by %v", got)
		}
	})
}
