// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package policy

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What people are told who write claims.
const (
	onlyRetained = "others may make them in phase Retained only"
	notChanged   = "IPClaims are changed by the Fairlead controller only"
)

func TestClaimsAreMadeByTheController(t *testing.T) {
	t.Parallel()
	const bound, retained, releasing = "203.0.113.1", "203.0.113.2", "203.0.113.3"
	withSuccessors := strings.Replace(claimManifest(retained, "Retained"), "  pool: p", "  pool: p\n  successors: [worker]", 1)
	noSuccessors := strings.Replace(claimManifest(retained, "Retained"), "  pool: p", "  pool: p\n  successors: []", 1)
	for _, tt := range []struct {
		name     string
		who      user
		manifest string
		wants    string
	}{
		{"the controller binds", controller(), claimManifest(bound, "Bound"), ""},
		{"an administrator mends", administrator(), claimManifest(bound, "Bound"), ""},
		{"a person binds", person(), claimManifest(bound, "Bound"), onlyRetained},
		{"a person without a phase, which means Bound", person(), strings.Replace(claimManifest(bound, "Bound"), "  phase: Bound\n", "", 1), onlyRetained},
		{"a person releases", person(), claimManifest(releasing, "Releasing"), onlyRetained},
		{"a person retains", person(), claimManifest(retained, "Retained"), ""},
		{"a person retains with an empty list of successors", person(), noSuccessors, ""},
		{"a person retains with successors", person(), withSuccessors, onlyRetained},
		{"the controller retains with successors", controller(), withSuccessors, ""},
		{"another's service account of that name", named("system:serviceaccount:default:fairlead-controller", "everything"), claimManifest(bound, "Bound"), onlyRetained},
		{"an agent, were RBAC to let it", agent("worker").also("everything"), claimManifest(bound, "Bound"), onlyRetained},
		{"an agent", agent("worker"), claimManifest(retained, "Retained"), "cannot create resource"},
		{"a person without permission", named("bob"), claimManifest(retained, "Retained"), "cannot create resource"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.who.create(t.Context(), tt.manifest)
			check(t, err, tt.wants)
			if err == nil {
				if err := administrator().delete(t.Context(), tt.manifest); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestClaimsAreChangedByTheController(t *testing.T) {
	t.Parallel()
	const bound, retained = "203.0.113.11", "203.0.113.12"
	given(t, claimManifest(bound, "Bound"), claimManifest(retained, "Retained"))
	for _, tt := range []struct {
		name           string
		who            user
		address, patch string
		wants          string
	}{
		{"the controller names successors", controller(), bound, `{spec: {successors: [worker]}}`, ""},
		{"a person names successors", person(), bound, `{spec: {successors: [worker2]}}`, notChanged},
		{"a person binds a retained address", person(), retained, `{spec: {phase: Bound}}`, notChanged},
		{"a person prolongs a retained address", person(), retained, `{spec: {retainUntil: "2031-01-01T00:00:00Z"}}`, notChanged},
		{"a person labels", person(), bound, `{metadata: {labels: {seen: "yes"}}}`, ""},
		{"a person labels a retained one", person(), retained, `{metadata: {labels: {seen: "yes"}}}`, ""},
		{"an administrator mends", administrator(), bound, `{spec: {successors: []}}`, ""},
		{"an agent", agent("worker").also("everything"), bound, `{spec: {successors: [worker3]}}`, notChanged},
	} {
		t.Run(tt.name, func(t *testing.T) {
			check(t, tt.who.patch(t.Context(), claimManifest(tt.address, "Bound"), tt.patch), tt.wants)
		})
	}
}

func TestClaimsAreDeletedByTheControllerUnlessRetained(t *testing.T) {
	t.Parallel()
	for i, tt := range []struct {
		name, phase string
		who         user
		wants       string
	}{
		{"the controller frees", "Releasing", controller(), ""},
		{"an administrator frees", "Bound", administrator(), ""},
		{"a person frees what is bound", "Bound", person(), "is Bound, and only the Fairlead controller may delete it"},
		{"a person frees what is still answered for", "Releasing", person(), "is Releasing, and only the Fairlead controller may delete it"},
		{"a person frees what is retained", "Retained", person(), ""},
		{"a person without permission", "Retained", named("bob"), "cannot delete resource"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := claimManifest("203.0.113."+string(rune('2'))+string(rune('0'+i)), tt.phase)
			given(t, m)
			check(t, tt.who.delete(t.Context(), m), tt.wants)
		})
	}
}

// Deleting all at once must not be a way around.
func TestClaimsAreNotDeletedAtOnce(t *testing.T) {
	t.Parallel()
	bound := strings.Replace(claimManifest("203.0.113.31", "Bound"), "metadata: {", "metadata: {labels: {at: once}, ", 1)
	retained := strings.Replace(claimManifest("203.0.113.32", "Retained"), "metadata: {", "metadata: {labels: {at: once}, ", 1)
	given(t, bound, retained)
	o, err := object(bound)
	if err != nil {
		t.Fatal(err)
	}
	c, err := person().on(o)
	if err != nil {
		t.Fatal(err)
	}
	err = c.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "at=once"})
	check(t, err, "is Bound, and only the Fairlead controller may delete it")
	if _, err := c.Get(t.Context(), o.GetName(), metav1.GetOptions{}); err != nil {
		t.Errorf("the bound claim: %v", err)
	}
}

func TestOwnersAreWrittenByTheirAgents(t *testing.T) {
	t.Parallel()
	const unowned, others = "203.0.113.41", "203.0.113.42"
	given(t, claimManifest(unowned, "Bound"), claimManifest(others, "Bound"))
	owner := func(node, epoch string) string {
		return "{status: {owner: {node: " + node + ", epoch: " + epoch + `, since: "2026-01-01T00:00:00Z"}}}`
	}
	if err := administrator().patch(t.Context(), claimManifest(others, "Bound"), owner("worker2", "1"), "status"); err != nil {
		t.Fatal(err)
	}
	const remove = `{status: {owner: null}}`
	for _, tt := range []struct {
		name           string
		who            user
		address, patch string
		wants          string
	}{
		{"an agent for another node", agent("worker"), unowned, owner("worker2", "1"), `may not change the owner from "" to "worker2"`},
		{"an agent for its node", agent("worker"), unowned, owner("worker", "1"), ""},
		{"an agent unsays its own", agent("worker"), unowned, remove, ""},
		{"an agent unsays another's", agent("worker"), others, remove, `may not change the owner from "worker2" to ""`},
		{"an agent takes over", agent("worker"), others, owner("worker", "2"), ""},
		{"an agent without a node", agent(""), unowned, owner("worker", "3"), "the token is not bound to a node"},
		{"a person", person(), unowned, owner("worker", "3"), "written by node agents only"},
		{"the controller", controller().also("everything"), unowned, owner("worker", "3"), "written by node agents only"},
		{"an administrator", administrator(), unowned, owner("worker3", "3"), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			check(t, tt.who.patch(t.Context(), claimManifest(tt.address, "Bound"), tt.patch, "status"), tt.wants)
		})
	}
}
