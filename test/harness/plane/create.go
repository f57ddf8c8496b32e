// SPDX-License-Identifier: Apache-2.0

package plane

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-lb/fairlead/test/harness"
)

// kindsTimeout bounds the time until the API server knows kinds that were made.
const kindsTimeout = time.Minute

// Create makes the objects of a YAML text that are not there yet, in its order. It does
// without discovery, which is most of what kubectl would ask of a slow API server.
func (p *Plane) Create(ctx context.Context, text string) error {
	client, err := dynamic.NewForConfig(p.config)
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	for doc := range strings.SplitSeq(text, documentSeparator) {
		var o unstructured.Unstructured
		if err := yaml.Unmarshal([]byte(doc), &o.Object); err != nil {
			return fmt.Errorf("create: %w", err)
		}
		if len(o.Object) == 0 {
			continue
		}
		if err := createOne(ctx, client, &o); err != nil {
			return err
		}
	}
	return nil
}

func createOne(ctx context.Context, client dynamic.Interface, o *unstructured.Unstructured) error {
	// Every kind here has the plural that this guesses.
	kind, _ := meta.UnsafeGuessKindToResource(o.GroupVersionKind())
	var to dynamic.ResourceInterface = client.Resource(kind)
	if o.GetNamespace() != "" {
		to = client.Resource(kind).Namespace(o.GetNamespace())
	}
	// The server learns of a new kind a moment after its definition.
	_, err := harness.Eventually(ctx, kindsTimeout, func(ctx context.Context) error {
		_, err := to.Create(ctx, o, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err //nolint:wrapcheck // below
	})
	if err != nil {
		return fmt.Errorf("create %s %s: %w", o.GetKind(), o.GetName(), err)
	}
	return nil
}

// waitForKinds waits until the server serves custom resources.
func (p *Plane) waitForKinds(ctx context.Context, names ...string) error {
	client, err := dynamic.NewForConfig(p.config)
	if err != nil {
		return fmt.Errorf("wait for kinds: %w", err)
	}
	of := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	_, err = harness.Eventually(ctx, kindsTimeout, func(ctx context.Context) error {
		var errs []error
		for _, name := range names {
			o, err := of.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err //nolint:wrapcheck // below
			}
			if !established(o) {
				errs = append(errs, fmt.Errorf("%s is not established", name))
			}
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return fmt.Errorf("wait for kinds: %w", err)
	}
	return nil
}

func established(o *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, c := range conditions {
		m, ok := c.(map[string]any)
		if ok && m["type"] == "Established" && m["status"] == string(metav1.ConditionTrue) {
			return true
		}
	}
	return false
}
