// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/manifest"
)

// source is where MetalLB's configuration was read, for messages.
const source = "cluster"

// MetalLB reads MetalLB's configuration in its namespace, and every Service. Kinds that
// the server does not have are skipped; anything else that cannot be read is an error,
// because a part that is missing would be lost.
func MetalLB(ctx context.Context, c *Clients, namespace string) ([]manifest.Object, error) {
	var out []manifest.Object
	// The first version that the server has counts.
	for _, kind := range []struct {
		resource string
		versions []string
	}{
		{"ipaddresspools", []string{"v1beta1"}},
		{"addresspools", []string{"v1beta1"}},
		{"l2advertisements", []string{"v1beta1"}},
		{"bgpadvertisements", []string{"v1beta1"}},
		{"bgppeers", []string{"v1beta2", "v1beta1"}},
		{"bfdprofiles", []string{"v1beta1"}},
		{"communities", []string{"v1beta1"}},
	} {
		for _, version := range kind.versions {
			list, err := c.Dynamic.Resource(schema.GroupVersionResource{Group: "metallb.io", Version: version, Resource: kind.resource}).
				Namespace(namespace).List(ctx, metav1.ListOptions{})
			if apierrors.IsNotFound(err) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("list %s.metallb.io: %w", kind.resource, err)
			}
			out = append(out, objects(list)...)
			break
		}
	}
	for _, name := range []string{"config", "metallb-excludel2", "metallb-memberlist-config", "bgpextras"} {
		cm, err := c.Dynamic.Resource(schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}).
			Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("get ConfigMap %s/%s: %w", namespace, name, err)
		}
		out = append(out, manifest.Object{Source: source, Fields: cm.Object})
	}
	services, err := c.Dynamic.Resource(schema.GroupVersionResource{Version: "v1", Resource: "services"}).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list Services: %w", err)
	}
	return append(out, objects(services)...), nil
}

func objects(list *unstructured.UnstructuredList) []manifest.Object {
	out := make([]manifest.Object, 0, len(list.Items))
	for i := range list.Items {
		out = append(out, manifest.Object{Source: source, Fields: list.Items[i].Object})
	}
	return out
}
