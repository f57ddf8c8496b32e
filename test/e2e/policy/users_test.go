// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package policy

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// user is who a test acts as.
type user struct {
	rest.ImpersonationConfig
}

const serviceAccountPrefix = "system:serviceaccount:fairlead-system:"

// person may do everything by RBAC, so that what refuses is the policy; not a member of
// system:masters.
func person() user {
	return user{rest.ImpersonationConfig{UserName: "alice", Groups: []string{"system:authenticated", "everything"}}}
}

// administrator is a member of system:masters.
func administrator() user {
	return user{rest.ImpersonationConfig{UserName: "root", Groups: []string{"system:authenticated", "system:masters"}}}
}

// controller has the controller's own permissions and no others.
func controller() user { return serviceAccount("fairlead-controller", "") }

// agent has the node agent's own permissions, with a token bound to a node ("": to none).
func agent(node string) user { return serviceAccount("fairlead-node-agent", node) }

func serviceAccount(name, node string) user {
	c := rest.ImpersonationConfig{
		UserName: serviceAccountPrefix + name,
		Groups:   []string{"system:authenticated", "system:serviceaccounts", "system:serviceaccounts:fairlead-system"},
	}
	if node != "" {
		c.Extra = map[string][]string{"authentication.kubernetes.io/node-name": {node}}
	}
	return user{c}
}

// named is a user with no permission but what RBAC gives to the name.
func named(name string, groups ...string) user {
	return user{rest.ImpersonationConfig{UserName: name, Groups: append([]string{"system:authenticated"}, groups...)}}
}

// also adds every permission by RBAC.
func (u user) also(group string) user {
	u.Groups = append(append([]string{}, u.Groups...), group)
	return u
}

func (u user) client() (dynamic.Interface, error) {
	cfg := cluster.config()
	cfg.Impersonate = u.ImpersonationConfig
	// Warnings are collected where a test wants them, and printed nowhere.
	cfg.WarningHandler = rest.NoWarnings{}
	return dynamicClient(cfg)
}

func dynamicClient(cfg *rest.Config) (dynamic.Interface, error) {
	c, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return c, nil
}

// object reads one object from YAML.
func object(manifest string) (*unstructured.Unstructured, error) {
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(manifest), &o.Object); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return o, nil
}

// resource of an object: every kind of these tests has a regular plural.
func resource(o *unstructured.Unstructured) schema.GroupVersionResource {
	gvk := o.GroupVersionKind()
	plural := strings.ToLower(gvk.Kind) + "s"
	if stem, ok := strings.CutSuffix(plural, "ys"); ok {
		plural = stem + "ies"
	}
	return gvk.GroupVersion().WithResource(plural)
}

// on returns the client of an object's kind, in its namespace.
func (u user) on(o *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	c, err := u.client()
	if err != nil {
		return nil, err
	}
	if o.GetNamespace() == "" {
		return c.Resource(resource(o)), nil
	}
	return c.Resource(resource(o)).Namespace(o.GetNamespace()), nil
}

// create creates an object.
func (u user) create(ctx context.Context, manifest string) error {
	o, err := object(manifest)
	if err != nil {
		return err
	}
	c, err := u.on(o)
	if err != nil {
		return err
	}
	_, err = c.Create(ctx, o, metav1.CreateOptions{})
	return err
}

// patch applies a merge patch to the object of the manifest.
func (u user) patch(ctx context.Context, manifest, patch string, subresources ...string) error {
	o, err := object(manifest)
	if err != nil {
		return err
	}
	data, err := yaml.YAMLToJSON([]byte(patch))
	if err != nil {
		return fmt.Errorf("patch: %w", err)
	}
	c, err := u.on(o)
	if err != nil {
		return err
	}
	_, err = c.Patch(ctx, o.GetName(), types.MergePatchType, data, metav1.PatchOptions{}, subresources...)
	return err
}

// delete deletes the object of the manifest.
func (u user) delete(ctx context.Context, manifest string) error {
	o, err := object(manifest)
	if err != nil {
		return err
	}
	c, err := u.on(o)
	if err != nil {
		return err
	}
	return c.Delete(ctx, o.GetName(), metav1.DeleteOptions{})
}

// given creates objects as the administrator and deletes them at the end of the test.
func given(t *testing.T, manifests ...string) {
	t.Helper()
	for _, m := range manifests {
		if err := administrator().create(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			err := administrator().delete(context.WithoutCancel(t.Context()), m)
			if err != nil && !apierrors.IsNotFound(err) {
				t.Error(err)
			}
		})
	}
}

// check compares what the API server said with what was expected: wants empty means
// accepted, otherwise the error must contain it.
func check(t *testing.T, err error, wants string) {
	t.Helper()
	switch {
	case wants == "" && err != nil:
		t.Errorf("refused: %.500s", err)
	case wants != "" && err == nil:
		t.Errorf("accepted; want an error with %q", wants)
	case wants != "" && !strings.Contains(err.Error(), wants):
		t.Errorf("error %.500q; want %q in it", err, wants)
	}
}

// eventually calls try until it returns nil, for what the API server learns by watching.
func eventually(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if wait(ctx, 50*time.Millisecond) != nil {
			return err
		}
	}
}

const everything = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: everything}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: everything}]
`

// install applies the base and waits until the policies are in force.
func (s *server) install(ctx context.Context) error {
	if _, err := s.run(ctx, "apply", "-k", "deploy/kustomize/base"); err != nil {
		return err
	}
	cluster = s
	if err := administrator().create(ctx, everything); err != nil {
		return fmt.Errorf("role binding: %w", err)
	}
	// Policies come into force by a watch, all at once: one that is refused is enough.
	return eventually(ctx, func(ctx context.Context) error {
		claim := claimManifest("203.0.113.254", "Bound")
		err := person().create(ctx, claim)
		if err == nil {
			if err := administrator().delete(ctx, claim); err != nil {
				return err
			}
			return fmt.Errorf("the policies are not in force")
		}
		if !strings.Contains(err.Error(), "ValidatingAdmissionPolicy") {
			return err
		}
		return nil
	})
}

// claimManifest is a claim of the Service default/web.
func claimManifest(address, phase string) string {
	until := ""
	if phase == string(v1alpha1.ClaimRetained) {
		until = "\n  retainUntil: 2030-01-01T00:00:00Z"
	}
	return `
apiVersion: fairlead.dev/v1alpha1
kind: IPClaim
metadata: {name: ` + address + `}
spec:
  address: ` + address + `
  pool: p
  group: ` + address + `
  phase: ` + phase + until + `
  services: [{namespace: default, name: web, uid: u1, ports: [{protocol: TCP, port: 80}]}]
`
}
