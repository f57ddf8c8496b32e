// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/test/harness"
)

// metallbPool is a pool of MetalLB's kind.
func metallbPool(name, namespace, addresses string) string {
	return "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: " + name + ", namespace: " + namespace + "}\n" +
		"spec: {autoAssign: false, addresses: [" + addresses + "]}\n"
}

// warned waits for one Warning event about a metallb.io pool.
func (s *scenario) warned(namespace, pool string, want reason.Reason) {
	s.t.Helper()
	s.toldIn(namespace, "IPAddressPool", pool, want)
}

// mirrorFollowsItsSource changes and deletes the object that a copy is of.
func mirrorFollowsItsSource(s *scenario) {
	t := s.t
	s.begin("mirror", "")
	s.apply(metallbPool("mirrored", "metallb-system", "172.20.251.110/32"))
	t.Cleanup(func() {
		cleanUp(t, "delete", "ipaddresspool.metallb.io", "-n", "metallb-system", "mirrored", "--ignore-not-found")
	})
	s.poolReason("mirrored", metav1.ConditionTrue, reason.Valid)
	s.apply(metallbPool("mirrored", "metallb-system", "172.20.251.111/32"))
	s.eventually(patience, func(ctx context.Context) error {
		p, err := harness.Get[*v1alpha1.IPAddressPool](ctx, lab, "ipaddresspool.fairlead.dev", "mirrored")
		if err == nil && (len(p.Spec.Addresses) != 1 || p.Spec.Addresses[0] != "172.20.251.111/32") {
			err = fmt.Errorf("the copy has %v", p.Spec.Addresses)
		}
		return err
	})
	// The copy cannot be edited.
	_, err := lab.Kubectl(t.Context(), "patch", "ipaddresspool.fairlead.dev", "mirrored", "--type=merge",
		"-p", `{"spec":{"addresses":["172.20.251.112/32"]}}`)
	if err == nil || !strings.Contains(err.Error(), "are copies") {
		t.Errorf("editing the copy gives %v, want a refusal that says so", err)
	}
	s.kubectl("delete", "ipaddresspool.metallb.io", "-n", "metallb-system", "mirrored")
	s.eventually(patience, func(ctx context.Context) error {
		res, err := lab.Kubectl(ctx, "get", "ipaddresspool.fairlead.dev", "mirrored", "--ignore-not-found", "-o", "name")
		if err == nil && res.Stdout != "" {
			err = fmt.Errorf("%s is still there", strings.TrimSpace(res.Stdout))
		}
		return err
	})
}

// mirrorRefuses has objects that cannot have a copy.
func mirrorRefuses(s *scenario) {
	t := s.t
	s.begin("mirrorbad", "172.20.251.113/32")
	t.Run("wrong namespace", func(*testing.T) {
		s.apply(metallbPool("elsewhere", s.name, "172.20.251.114/32"))
		s.warned(s.name, "elsewhere", reason.WrongNamespace)
	})
	t.Run("name taken", func(t *testing.T) {
		s.apply(metallbPool(s.name, "metallb-system", "172.20.251.115/32"))
		t.Cleanup(func() { cleanUp(t, "delete", "ipaddresspool.metallb.io", "-n", "metallb-system", s.name) })
		s.warned("metallb-system", s.name, reason.NameTaken)
		p, err := harness.Get[*v1alpha1.IPAddressPool](t.Context(), lab, "ipaddresspool.fairlead.dev", s.name)
		if err != nil || len(p.Spec.Addresses) != 1 || p.Spec.Addresses[0] != "172.20.251.113/32" {
			t.Errorf("the user's own pool is %v, %v; want it untouched", p, err)
		}
	})
}

// TestMirrorBesideMetalLB has a Deployment with MetalLB's label come and go.
func TestMirrorBesideMetalLB(t *testing.T) {
	const namespace, pool = "metallb-system", "beside"
	s := newScenario(t, "mirrorbeside", "")
	s.apply("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: controller, namespace: " + namespace + ", labels: {app: metallb, component: controller}}\n" +
		"spec:\n  replicas: 0\n  selector: {matchLabels: {app: metallb}}\n  template:\n    metadata: {labels: {app: metallb}}\n" +
		"    spec: {containers: [{name: c, image: traefik/whoami}]}\n")
	gone := false
	t.Cleanup(func() {
		if !gone {
			cleanUp(t, "delete", "deployment", "-n", namespace, "controller")
		}
		cleanUp(t, "delete", "ipaddresspool.metallb.io", "-n", namespace, pool, "--ignore-not-found")
	})
	s.apply(metallbPool(pool, namespace, "172.20.251.116/32"))
	s.warned(namespace, pool, reason.MetalLBRunning)
	if out := s.kubectl("get", "ipaddresspool.fairlead.dev", pool, "--ignore-not-found", "-o", "name"); out != "" {
		t.Errorf("%s was mirrored though MetalLB is there", strings.TrimSpace(out))
	}
	s.kubectl("delete", "deployment", "-n", namespace, "controller")
	gone = true
	s.poolReason(pool, metav1.ConditionTrue, reason.Valid)
}

// mirrorTellsFields has an object with a field that this release does not read.
func mirrorTellsFields(s *scenario) {
	t := s.t
	const namespace = "metallb-system"
	s.begin("mirrortells", "")
	t.Cleanup(func() {
		cleanUp(t, "delete", "l2advertisement.metallb.io", "-n", namespace, "tells", "--ignore-not-found")
	})
	s.apply("apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: tells, namespace: " + namespace + "}\n" +
		"spec: {ipAddressPools: [], future: {field: 1}}\n")
	s.toldIn(namespace, "L2Advertisement", "tells", reason.FieldNotSupported, "spec.future")
}

// unreadKind makes an object of a kind of MetalLB's that this release does not read, and
// returns what waits until it was told. A running controller looks for such kinds once a
// minute, one that starts looks at once.
func (s *scenario) unreadKind() (told func()) {
	s.t.Helper()
	const namespace = "metallb-system"
	s.t.Cleanup(func() { cleanUp(s.t, "delete", "crd", "addresspools.metallb.io", "--ignore-not-found") })
	s.apply("apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: addresspools.metallb.io}\nspec:\n" +
		"  group: metallb.io\n  scope: Namespaced\n  names: {kind: AddressPool, plural: addresspools, singular: addresspool}\n" +
		"  versions: [{name: v1beta1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]\n")
	s.kubectl("wait", "--for=condition=Established", "crd/addresspools.metallb.io", "--timeout=60s")
	s.apply("apiVersion: metallb.io/v1beta1\nkind: AddressPool\nmetadata: {name: tells, namespace: " + namespace + "}\nspec: {}\n")
	return func() { s.toldIn(namespace, "AddressPool", "tells", reason.KindNotSupported) }
}
