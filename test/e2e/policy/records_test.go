// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package policy

import (
	"strings"
	"testing"
)

func record(name string) string {
	return "apiVersion: fairlead.dev/v1alpha1\nkind: LoadBalancer\nmetadata: {name: " + name + ", namespace: default}\n" +
		"spec: {serviceUID: u1, targetType: pod, externalTrafficPolicy: Cluster, forwarding: kube-proxy}\n"
}

// Records tell agents ports and policies: the controller's alone.
func TestRecordsAreWrittenByTheController(t *testing.T) {
	t.Parallel()
	const refused = "LoadBalancers are written by the Fairlead controller only"
	const status = `{status: {conditions: []}}`
	given(t, record("changed"))
	for _, tt := range []struct {
		name, patch, wants string
		who                user
		subresource        []string
	}{
		{"controller", `{spec: {targetType: node-port}}`, "", controller(), nil},
		{"controller, status", status, "", controller(), []string{"status"}},
		{"administrator", `{spec: {targetType: pod}}`, "", administrator(), nil},
		{"person", `{spec: {targetType: node-port}}`, refused, person(), nil},
		{"person, status", status, refused, person(), []string{"status"}},
		{"person, metadata", `{metadata: {labels: {a: b}}}`, "", person(), nil},
		{"agent", `{spec: {targetType: node-port}}`, "cannot patch resource", agent("worker"), nil},
		{"garbage collector, spec", `{spec: {targetType: node-port}}`, refused, named("system:serviceaccount:kube-system:generic-garbage-collector", "everything"), nil},
		{"garbage collector, owner references", `{metadata: {ownerReferences: null}}`, "", named("system:serviceaccount:kube-system:generic-garbage-collector", "everything"), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			check(t, tt.who.patch(t.Context(), record("changed"), tt.patch, tt.subresource...), tt.wants)
		})
	}
	check(t, controller().create(t.Context(), record("made")), "")
	check(t, controller().delete(t.Context(), record("made")), "")
	check(t, person().create(t.Context(), record("made")), refused)
	for _, tt := range []struct {
		who   user
		wants string
	}{
		{person(), refused},
		{named("system:serviceaccount:kube-system:generic-garbage-collector", "everything"), ""},
		{named("system:serviceaccount:kube-system:namespace-controller", "everything"), ""},
		{named("system:kube-controller-manager", "everything"), ""},
		{administrator(), ""},
	} {
		t.Run("delete as "+tt.who.UserName, func(t *testing.T) {
			given(t, record("deleted"))
			check(t, tt.who.delete(t.Context(), record("deleted")), tt.wants)
			// Gone before the next one makes it anew.
			_ = administrator().delete(t.Context(), record("deleted"))
		})
	}
}

func TestAgentsWriteTheirOwnReport(t *testing.T) {
	t.Parallel()
	report := func(node string) string {
		return "apiVersion: fairlead.dev/v1alpha1\nkind: NodeAgent\nmetadata: {name: " + node + "}\n"
	}
	const status = `{status: {version: v0}}`
	given(t, report("node-2"))
	check(t, agent("node-1").create(t.Context(), report("node-3")), "the agent of node node-1 may not write the NodeAgent node-3")
	check(t, agent("node-1").create(t.Context(), report("node-1")), "")
	check(t, agent("node-1").patch(t.Context(), report("node-1"), status, "status"), "")
	check(t, agent("node-1").patch(t.Context(), report("node-1"), `{metadata: {labels: {a: b}}}`), "")
	check(t, agent("node-1").patch(t.Context(), report("node-2"), status, "status"), "the agent of node node-1 may not write the NodeAgent node-2")
	check(t, agent("node-1").patch(t.Context(), report("node-2"), `{metadata: {labels: {a: b}}}`), "the agent of node node-1 may not write the NodeAgent node-2")
	check(t, agent("").patch(t.Context(), report("node-2"), status, "status"), "the token is not bound to a node")
	check(t, agent("node-1").delete(t.Context(), report("node-1")), "cannot delete resource")
	check(t, agent("node-1").also("everything").delete(t.Context(), report("node-2")), "the agent of node node-1 may not write the NodeAgent node-2")
	check(t, person().patch(t.Context(), report("node-2"), `{metadata: {labels: {a: b}}}`), "")
	check(t, agent("node-1").also("everything").delete(t.Context(), report("node-1")), "")
}

// Copies of metallb.io objects are the controller's.
func TestMirrorsAreReadOnly(t *testing.T) {
	t.Parallel()
	const refused = "objects with the label fairlead.dev/source are copies"
	plain := poolOf("mirror-plain", "addresses: [192.0.2.0/24]")
	copied := strings.Replace(poolOf("mirror-copied", "addresses: [192.0.2.0/24]"), "metadata: {", "metadata: {labels: {fairlead.dev/source: metallb.io}, ", 1)
	ad := strings.NewReplacer("IPAddressPool", "L2Advertisement", "addresses: [192.0.2.0/24]", "ipAddressPools: [a]").Replace(copied)
	given(t, plain)
	check(t, person().create(t.Context(), copied), refused)
	check(t, administrator().create(t.Context(), copied), refused)
	check(t, person().create(t.Context(), ad), refused)
	check(t, controller().create(t.Context(), copied), "")
	check(t, controller().create(t.Context(), ad), "")
	check(t, person().patch(t.Context(), copied, `{spec: {autoAssign: false}}`), refused)
	check(t, person().patch(t.Context(), copied, `{metadata: {labels: {fairlead.dev/source: null}}}`), refused)
	check(t, person().patch(t.Context(), plain, `{metadata: {labels: {fairlead.dev/source: metallb.io}}}`), refused)
	check(t, person().patch(t.Context(), plain, `{spec: {autoAssign: false}}`), "")
	check(t, person().delete(t.Context(), copied), refused)
	check(t, person().delete(t.Context(), ad), refused)
	check(t, administrator().delete(t.Context(), copied), "")
	check(t, controller().delete(t.Context(), ad), "")
}
