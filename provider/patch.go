// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// servicePatch returns the JSON merge patch from one copy of a Service to the other, in
// finalizers and load balancer status, which is all that Fairlead writes there. It
// holds only for the very version of the Service that it was made from: a stale copy
// must not show an address that was taken away meanwhile, nor write to a namesake.
func servicePatch(old, updated *corev1.Service) ([]byte, error) {
	meta := map[string]any{"uid": old.UID, "resourceVersion": old.ResourceVersion}
	patch := map[string]any{"metadata": meta}
	if !slices.Equal(old.Finalizers, updated.Finalizers) {
		meta["finalizers"] = updated.Finalizers
	}
	if !equality.Semantic.DeepEqual(old.Status.LoadBalancer, updated.Status.LoadBalancer) {
		var ingress any // null takes the list away
		if len(updated.Status.LoadBalancer.Ingress) > 0 {
			ingress = updated.Status.LoadBalancer.Ingress
		}
		patch["status"] = map[string]any{"loadBalancer": map[string]any{"ingress": ingress}}
	}
	data, err := json.Marshal(patch)
	if err != nil {
		return nil, fmt.Errorf("encode service patch: %w", err)
	}
	return data, nil
}

// patchService writes what differs between two copies of a Service through the status
// subresource, as the service controller writes its finalizer and status.
func (w *wiring) patchService(ctx context.Context, old, updated *corev1.Service) (*corev1.Service, error) {
	data, err := servicePatch(old, updated)
	if err != nil {
		return nil, err
	}
	got, err := w.kube.CoreV1().Services(old.Namespace).Patch(ctx, old.Name, types.MergePatchType, data,
		metav1.PatchOptions{FieldManager: "fairlead-service-address"}, "status")
	if err != nil {
		return nil, fmt.Errorf("patch service: %w", err)
	}
	return got, nil
}
