// SPDX-License-Identifier: Apache-2.0

// Package status writes what a node agent has to say into the API: the owner of the
// claims that its node announces ([Owners]), and the node's own NodeAgent ([Report]).
// It writes on change only, retries until it is written or superseded, and never makes
// the owner loop wait: announcing goes on whether or not the API server can be reached.
// It must not decide ownership, and touches no object of another node.
package status

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// FieldManager owns the fields that node agents apply.
const FieldManager = "fairlead-node-agent"

// patcher is what is needed of a typed client.
type patcher[T any] interface {
	Get(ctx context.Context, name string, opts metav1.GetOptions) (T, error)
	Patch(ctx context.Context, name string, pt types.PatchType, data []byte, opts metav1.PatchOptions, subresources ...string) (T, error)
}

func applyOptions() metav1.PatchOptions {
	force := true
	return metav1.PatchOptions{FieldManager: FieldManager, Force: &force}
}
