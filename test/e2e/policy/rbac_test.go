// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package policy

import (
	"context"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const operators = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: operators}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: fairlead-operator}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: operators}]
`

// may asks the API server whether a user may do something.
func (u user) may(ctx context.Context, verb, group, resource, subresource, namespace string) (bool, error) {
	c, err := kubernetes.NewForConfig(cluster.config())
	if err != nil {
		return false, err
	}
	review, err := c.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: u.UserName, Groups: u.Groups,
			ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Group: group, Resource: resource, Subresource: subresource, Version: "*", Namespace: namespace},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	return review.Status.Allowed, nil
}

// TestRoles asks for what the programs call, and for what would hurt if they could.
func TestRoles(t *testing.T) {
	t.Parallel()
	given(t, operators)
	operator := named("op", "operators")
	const fairlead, network = "fairlead.dev", "networking.k8s.io"
	for _, tt := range []struct {
		name, verbs, group, resource, subresource, namespace string
		who                                                  user
		not                                                  string
	}{
		{name: "controller", who: controller(), verbs: "get list watch", resource: "services", not: "create update patch delete deletecollection"},
		{name: "controller", who: controller(), verbs: "patch", resource: "services", subresource: "status", not: "update"},
		{name: "controller", who: controller(), verbs: "list watch", resource: "namespaces", not: "get patch update delete create"},
		{name: "controller", who: controller(), verbs: "get list watch update patch", resource: "nodes", not: "delete create"},
		{name: "controller", who: controller(), verbs: "list watch", group: network, resource: "servicecidrs", not: "create update patch delete"},
		{name: "controller", who: controller(), verbs: "get list watch create update patch delete", group: fairlead, resource: "ipclaims", not: "deletecollection"},
		{name: "controller", who: controller(), group: fairlead, resource: "ipclaims", subresource: "status", not: "update patch"},
		{name: "controller", who: controller(), verbs: "list watch create", group: fairlead, resource: "externalippolicies", not: "update patch delete"},
		{name: "controller", who: controller(), verbs: "list watch", group: fairlead, resource: "nodeagents", not: "create update patch delete"},
		{name: "controller", who: controller(), verbs: "list watch", group: "metallb.io", resource: "bgppeers", not: "get create update patch delete"},
		{name: "controller", who: controller(), resource: "secrets", not: "get list watch update"},
		{name: "controller", who: controller(), resource: "configmaps", not: "get list watch"},
		{name: "controller", who: controller(), resource: "pods", not: "get list watch create"},
		{name: "agent", who: agent("worker"), verbs: "get list watch", group: fairlead, resource: "ipclaims", not: "create update patch delete"},
		{name: "agent", who: agent("worker"), verbs: "patch", group: fairlead, resource: "ipclaims", subresource: "status", not: "update"},
		{name: "agent", who: agent("worker"), verbs: "create get patch", group: fairlead, resource: "nodeagents", not: "list watch update delete"},
		{name: "agent", who: agent("worker"), verbs: "patch", group: fairlead, resource: "nodeagents", subresource: "status", not: "get update"},
		{name: "agent", who: agent("worker"), resource: "services", not: "get list watch patch"},
		{name: "agent", who: agent("worker"), resource: "secrets", not: "get list watch"},
		{name: "agent", who: agent("worker"), verbs: "get list watch", resource: "secrets", namespace: "fairlead-system", not: "create update patch delete"},
		{name: "agent", who: agent("worker"), verbs: "get list watch", group: fairlead, resource: "bgppeers", not: "create update patch delete"},
		{name: "agent", who: agent("worker"), verbs: "get list watch", group: fairlead, resource: "communities", not: "create update patch delete"},
		{name: "controller", who: controller(), verbs: "get list watch create update delete", group: fairlead, resource: "bgppeers", not: "patch deletecollection"},
		{name: "controller", who: controller(), verbs: "patch", group: fairlead, resource: "bgppeers", subresource: "status", not: "update"},
		{name: "controller", who: controller(), verbs: "patch", group: fairlead, resource: "bgpadvertisements", subresource: "status", not: "update"},
		{name: "controller", who: controller(), resource: "secrets", namespace: "fairlead-system", not: "get list watch update"},
		// A peer may hold a password.
		{name: "operator", who: operator, group: fairlead, resource: "bgppeers", not: "get list watch"},
		{name: "operator", who: operator, verbs: "get list watch", group: fairlead, resource: "bgpadvertisements", not: "create update patch delete"},
		{name: "agent", who: agent("worker"), group: fairlead, resource: "externalippolicies", not: "get list watch"},
		{name: "operator", who: operator, verbs: "get list watch create delete", group: fairlead, resource: "ipclaims", not: "update patch deletecollection"},
		{name: "operator", who: operator, verbs: "get list watch", group: fairlead, resource: "externalippolicies", not: "create update patch delete"},
		{name: "operator", who: operator, verbs: "get list watch", group: fairlead, resource: "ipaddresspools", not: "create update patch delete"},
		{name: "operator", who: operator, verbs: "get list watch", resource: "nodes", not: "update patch delete"},
		{name: "operator", who: operator, resource: "secrets", not: "get list watch"},
	} {
		what := tt.namespace + "/" + tt.resource + "/" + tt.subresource
		for _, part := range []struct {
			verbs string
			want  bool
		}{{tt.verbs, true}, {tt.not, false}} {
			for verb := range strings.FieldsSeq(part.verbs) {
				got, err := tt.who.may(t.Context(), verb, tt.group, tt.resource, tt.subresource, tt.namespace)
				if err != nil {
					t.Fatal(err)
				}
				if got != part.want {
					t.Errorf("%s may %s %s: %v, want %v", tt.name, verb, what, got, part.want)
				}
			}
		}
	}
}

// The operator's one way to write.
func TestOperatorSetsAddressesAside(t *testing.T) {
	t.Parallel()
	binding := `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: importers}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: fairlead-operator}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: importers}]
`
	given(t, binding)
	operator := named("op", "importers")
	const address = "203.0.113.51"
	check(t, operator.create(t.Context(), claimManifest(address, "Bound")), onlyRetained)
	retained := claimManifest(address, "Retained")
	check(t, operator.create(t.Context(), retained), "")
	check(t, operator.patch(t.Context(), retained, `{spec: {phase: Bound}}`), "cannot patch resource")
	check(t, operator.delete(t.Context(), retained), "")
}
