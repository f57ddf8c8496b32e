// SPDX-License-Identifier: Apache-2.0

package allocation_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/provider/internal/store/storetest"
)

func nodeWith(name string, addrs ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.0.0/24"}}}
	for _, a := range addrs {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	return n
}

func wantOnNodes(t *testing.T, api *storetest.API, name string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, specOf(t, api, name).NodeAddresses); diff != "" {
		t.Errorf("nodes' addresses of %s (-want +got):\n%s", name, diff)
	}
}

// A node's own address is served under a grant, without a claim, one port by one Service.
func TestNodeAddresses(t *testing.T) {
	t.Parallel()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/24"))
	api.PutPolicy(grant("default", "192.0.2.0/24", "198.51.100.0/24", "10.244.0.0/16"))
	l := newLeader(t, api, kind{})
	l.store.ObserveNode(nodeWith("n1", "192.0.2.1", "198.51.100.1"))
	l.store.ObserveAgent(&v1alpha1.NodeAgent{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: v1alpha1.NodeAgentStatus{Gateways: []string{"198.51.100.254"}}})
	web := plain("web", 80, "192.0.2.1", "198.51.100.1", "198.51.100.7")
	l.mustGet(t, web)
	wantOnNodes(t, api, "web", "192.0.2.1", "198.51.100.1")
	wantListed(t, api, "web", "198.51.100.7 ExternalIP")
	if got := api.AllClaims(); len(got) != 1 || got[0].Name != "198.51.100.7" {
		t.Errorf("claims %v", got)
	}
	// One port is one Service's, another port another's.
	clash, other := plain("clash", 80, "192.0.2.1"), plain("other", 81, "192.0.2.1")
	l.mustGet(t, clash)
	l.mustGet(t, other)
	wantOnNodes(t, api, "clash")
	wantOnNodes(t, api, "other", "192.0.2.1")
	if got := l.ann.failed[keyOf(clash)]; got != reason.ExternalIPInUse {
		t.Errorf("condition of the clash %q", got)
	}
	// What is the cluster's otherwise is nobody's.
	bad := plain("bad", 82, "198.51.100.254", "10.244.0.9")
	if _, err := l.ensure(t, bad); err == nil {
		t.Error("no failure for a gateway's address")
	}
	if got := l.ann.failed[keyOf(bad)]; got != reason.AddressReserved || len(listed(api, "bad")) != 0 {
		t.Errorf("a gateway's and a pod's address: condition %q, listed %v", got, listed(api, "bad"))
	}
	// When the first goes, the next one follows by itself.
	web.Spec.ExternalIPs = web.Spec.ExternalIPs[1:]
	l.mustGet(t, web)
	wantOnNodes(t, api, "web", "198.51.100.1")
	wantOnNodes(t, api, "clash", "192.0.2.1")
	// A grant withdrawn takes it away.
	api.PutPolicy(grant("default", "198.51.100.0/24"))
	l.mustGet(t, clash)
	wantOnNodes(t, api, "clash")
	// Nothing is written for a look without a change.
	before := len(writes(api))
	l.mustGet(t, web)
	l.mustGet(t, clash)
	if got := writes(api)[before:]; len(got) != 0 {
		t.Errorf("writes without a change %q", got)
	}
}

// An address that a node gets is the node's, and its claim goes; one that a node loses
// waits for it, because another node that announced it would be a second one when the
// first is back.
func TestNodesGetAndLoseAddresses(t *testing.T) {
	t.Parallel()
	api := storetest.New()
	api.PutPolicy(grant("default", "198.51.100.0/24"))
	l := newLeader(t, api, kind{})
	web := plain("web", 80, "198.51.100.1")
	l.mustGet(t, web)
	wantListed(t, api, "web", "198.51.100.1 ExternalIP")
	l.told()
	l.store.ObserveNode(nodeWith("n1", "198.51.100.1"))
	l.mustGet(t, web)
	wantOnNodes(t, api, "web", "198.51.100.1")
	if c := claimOf(t, api, "198.51.100.1"); c.Spec.Phase != v1alpha1.ClaimReleasing {
		t.Errorf("the claim is %s", c.Spec.Phase)
	}
	l.told()
	before := len(writes(api))
	for range 2 {
		l.store.ObserveNode(nodeWith("n1"))
		l.mustGet(t, web)
	}
	wantOnNodes(t, api, "web", "198.51.100.1")
	if got := writes(api)[before:]; len(got) != 0 {
		t.Errorf("writes for an address that is away %q", got)
	}
	if got := l.told(); len(got) != 1 {
		t.Errorf("events %q, want one", got)
	}
	api.RemoveClaim("198.51.100.1")
	web.Spec.ExternalIPs = nil
	l.mustGet(t, web)
	web.Spec.ExternalIPs = []string{"198.51.100.1"}
	l.mustGet(t, web)
	wantListed(t, api, "web", "198.51.100.1 ExternalIP")
}

// Services with a load balancer have nodes' addresses beside it, and no type needs one.
func TestNodeAddressesBesideALoadBalancer(t *testing.T) { forBoth(t, testNodeAddressesBeside) }

func testNodeAddressesBeside(t *testing.T, k kind) {
	t.Helper()
	api := storetest.New()
	api.PutPool(newPool("a", "192.0.2.0/24"))
	api.PutPolicy(grant("default", "198.51.100.0/24"))
	l := newLeader(t, api, k)
	l.store.ObserveNode(nodeWith("n1", "198.51.100.1"))
	web := newService("web", 1, func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"198.51.100.1"} })
	l.mustGet(t, web, "192.0.2.0")
	wantOnNodes(t, api, "web", "198.51.100.1")
	np := plain("np", 81, "198.51.100.1")
	np.Spec.Type = corev1.ServiceTypeNodePort
	np.Annotations = map[string]string{"fairlead.dev/scheduler": "best"}
	l.mustFail(t, np, reason.InvalidAnnotation)
	wantOnNodes(t, api, "np", "198.51.100.1")
	if got := specOf(t, api, "np").Scheduler; got != "" {
		t.Errorf("scheduler %q", got)
	}
	if got := writes(api); !slices.Contains(got, "create record/default/np") {
		t.Errorf("writes %q", got)
	}
}
