// SPDX-License-Identifier: Apache-2.0

package mirror_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clienttesting "k8s.io/client-go/testing"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/provider/internal/mirror"
)

// A field that is not read is named once per generation, and the rest is used.
func TestFieldsThatAreNotRead(t *testing.T) {
	for _, tc := range []struct {
		name     string
		resource string
		source   *unstructured.Unstructured
		want     string
	}{
		{
			name: "a field of a later MetalLB", resource: "l2advertisements",
			source: object("L2Advertisement", namespace, "x", nil, map[string]any{
				"interfaces": []any{"eth0"}, "preferredZones": []any{map[string]any{"weight": int64(1)}},
			}),
			want: "used without spec.preferredZones, which",
		},
		{
			name: "a nested field and another", resource: "ipaddresspools",
			source: object("IPAddressPool", namespace, "x", nil, map[string]any{
				"addresses": []any{"10.0.0.0/24"}, "zone": "a", "serviceAllocation": map[string]any{"priority": int64(1), "weight": int64(2)},
			}),
			want: "used without spec.serviceAllocation.weight, spec.zone, which",
		},
		{
			name: "a field that only Fairlead's kind has", resource: "ipaddresspools",
			source: object("IPAddressPool", namespace, "x", nil, map[string]any{"addresses": []any{"10.0.0.0/24"}, "disabled": true}),
			want:   "used without spec.disabled, which",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := start(t, mirror.Auto, func(*bed) {})
				tc.source.SetGeneration(1)
				b.create(t, tc.resource, tc.source)
				wait(t, time.Hour)
				events := b.takeEvents()
				if len(events) != 1 || !strings.HasPrefix(events[0], "Warning FieldNotSupported "+tc.want) {
					t.Fatalf("events %q, want one: %s", events, tc.want)
				}
				if p, found := b.pools.Find("x"); found && (p.Spec.Disabled || p.Spec.Addresses[0] != "10.0.0.0/24") {
					t.Errorf("pool %+v", p.Spec)
				}
				if a, found := b.ads.Find("x"); found && a.Spec.Interfaces[0] != "eth0" {
					t.Errorf("advertisement %+v", a.Spec)
				}
				relabelled := tc.source.DeepCopy()
				relabelled.SetLabels(map[string]string{"a": "b"})
				b.update(t, tc.resource, relabelled)
				wait(t, time.Second)
				if events := b.takeEvents(); len(events) != 0 {
					t.Errorf("events of the same generation: %q", events)
				}
				relabelled.SetGeneration(2)
				b.update(t, tc.resource, relabelled)
				wait(t, time.Second)
				b.wantEvent(t, "FieldNotSupported")
			})
		})
	}
}

// serviceAllocation arrives as it is, whatever MetalLB lets it hold.
func TestServiceAllocationIsUnchanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, mirror.Auto, func(*bed) {})
		b.create(t, "ipaddresspools", object("IPAddressPool", namespace, "p", nil, map[string]any{
			"addresses": []any{"10.0.0.0/24"},
			"serviceAllocation": map[string]any{
				"priority": int64(50), "namespaces": []any{"b", "a"},
				"namespaceSelectors": []any{map[string]any{"matchLabels": map[string]any{"team": "x"}}},
				"serviceSelectors": []any{map[string]any{"matchExpressions": []any{
					map[string]any{"key": "app", "operator": "In", "values": []any{"web", "db"}},
				}}},
			},
		}))
		wait(t, time.Second)
		p, _ := b.pools.Find("p")
		if diff := cmp.Diff(&v1alpha1.ServiceAllocation{
			Priority: 50, Namespaces: []string{"b", "a"},
			NamespaceSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"team": "x"}}},
			ServiceSelectors: []metav1.LabelSelector{{MatchExpressions: []metav1.LabelSelectorRequirement{
				{Key: "app", Operator: "In", Values: []string{"web", "db"}},
			}}},
		}, p.Spec.ServiceAllocation); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// Objects of kinds that nobody reads are told so once, in whatever version they are
// served and in whatever namespace, unless a MetalLB reads them.
func TestKindsThatAreNotRead(t *testing.T) {
	for _, tc := range []struct {
		kind, resource string
		versions       []string
		ns             string
	}{
		{"AddressPool", "addresspools", []string{"v1alpha1"}, namespace},
		{"AddressPool", "addresspools", []string{"v1beta1", "v1alpha1"}, "default"},
	} {
		t.Run(tc.kind+" "+strings.Join(tc.versions, ","), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := start(t, mirror.Auto, func(b *bed) {
					b.dynamic.PrependReactor("list", tc.resource, func(a clienttesting.Action) (bool, runtime.Object, error) {
						for _, v := range tc.versions {
							if a.GetResource().Version == v {
								return false, nil, nil
							}
						}
						return true, nil, apierrors.NewNotFound(schema.GroupResource{Group: "metallb.io"}, "")
					})
					for _, v := range tc.versions {
						u := object(tc.kind, tc.ns, "x", nil, map[string]any{"password": "secret"})
						u.SetAPIVersion("metallb.io/" + v)
						if _, err := b.dynamic.Resource(gvr(tc.resource).GroupResource().WithVersion(v)).Namespace(tc.ns).
							Create(t.Context(), u, metav1.CreateOptions{}); err != nil {
							t.Fatal(err)
						}
					}
				})
				wait(t, time.Hour)
				events := b.takeEvents()
				if len(events) != 1 || !strings.HasPrefix(events[0], "Warning KindNotSupported not used: Fairlead does not read "+tc.kind+" objects") {
					t.Errorf("events %q, want one KindNotSupported", events)
				}
			})
		})
	}
}

func TestKindsThatMetalLBReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, mirror.Auto, func(b *bed) {
			if _, err := b.kube.AppsV1().DaemonSets(namespace).Create(t.Context(),
				&appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "speaker", Labels: map[string]string{"app": "metallb"}}},
				metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		})
		b.create(t, "addresspools", object("AddressPool", namespace, "x", nil, nil))
		wait(t, time.Hour)
		if events := b.takeEvents(); len(events) != 0 {
			t.Errorf("events %q while a MetalLB runs", events)
		}
		if err := b.kube.AppsV1().DaemonSets(namespace).Delete(t.Context(), "speaker", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		wait(t, time.Second)
		b.wantEvent(t, "KindNotSupported")
	})
}
