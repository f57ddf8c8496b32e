// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

const (
	kindPool          = "IPAddressPool"
	kindAdvertisement = "L2Advertisement"

	// sourceMetalLB is the value of the label on mirrored objects.
	sourceMetalLB = "metallb.io"
)

// kind joins a metallb.io kind with the Fairlead kind it is copied to.
type kind struct {
	name   string
	source *source
	// target is nil for a kind that this release does not read, whose objects are told so.
	target target
	// invalid is why an object of the kind cannot be copied.
	invalid reason.Reason
	// copiesKnown says that the target's cache was filled; of a target only.
	copiesKnown cache.InformerSynced
}

// target is one Fairlead kind.
type target interface {
	informer() cache.SharedIndexInformer
	// get returns the cached object, nil when there is none.
	get(name string) metav1.Object
	// put makes the mirrored object equal to the source; existing is nil or what get returned.
	put(ctx context.Context, src *unstructured.Unstructured, existing metav1.Object) (changed bool, told remarks, err error)
	remove(ctx context.Context, existing metav1.Object) error
}

// remarks are what the source's author has to know of the copy.
type remarks struct {
	// unread are the paths of the source's fields that it leaves out.
	unread []string
	// todo is what has to be done for it to work, empty for nothing.
	todo string
}

func poolKind(o Options) *kind {
	return &kind{
		name: kindPool, invalid: reason.InvalidAddresses,
		source: newSource("ipaddresspools", probeInterval, "v1beta1"),
		target: &typedTarget[*v1alpha1.IPAddressPool, v1alpha1.IPAddressPoolSpec]{
			client: o.Pools, cache: o.PoolInformer,
			fields:    []string{"addresses", "autoAssign", "avoidBuggyIPs", "serviceAllocation"},
			make:      func() *v1alpha1.IPAddressPool { return &v1alpha1.IPAddressPool{} },
			spec:      func(p *v1alpha1.IPAddressPool) *v1alpha1.IPAddressPoolSpec { return &p.Spec },
			normalise: normalisePool,
		},
	}
}

func advertisementKind(o Options) *kind {
	return &kind{
		name: kindAdvertisement, invalid: reason.InvalidSelector,
		source: newSource("l2advertisements", probeInterval, "v1beta1"),
		target: &typedTarget[*v1alpha1.L2Advertisement, v1alpha1.L2AdvertisementSpec]{
			client: o.Advertisements, cache: o.AdvertisementInformer,
			fields:    []string{"ipAddressPools", "ipAddressPoolSelectors", "nodeSelectors", "preferredNodeSelectors", "serviceSelectors", "interfaces"},
			make:      func() *v1alpha1.L2Advertisement { return &v1alpha1.L2Advertisement{} },
			spec:      func(a *v1alpha1.L2Advertisement) *v1alpha1.L2AdvertisementSpec { return &a.Spec },
			normalise: normaliseAdvertisement,
		},
	}
}

// reportedKind is the kind of MetalLB that configures and that this release does not read.
// Two versions of one kind are two views of the same objects: the first that the API server
// has is read.
func reportedKind() *kind {
	return &kind{name: "AddressPool", source: newSource("addresspools", reportInterval, "v1beta1", "v1alpha1")}
}

// normalisePool fills in what the API server defaults, so that a mirrored object
// compares equal to its source, and drops repeated names, which MetalLB accepts.
func normalisePool(s *v1alpha1.IPAddressPoolSpec) string {
	if s.AutoAssign == nil {
		yes := true
		s.AutoAssign = &yes
	}
	if s.ReclaimPolicy == "" {
		s.ReclaimPolicy = v1alpha1.ReclaimDelete
	}
	if s.ServiceAllocation != nil {
		s.ServiceAllocation.Namespaces = unique(s.ServiceAllocation.Namespaces)
	}
	return ""
}

func normaliseAdvertisement(s *v1alpha1.L2AdvertisementSpec) string {
	s.IPAddressPools = unique(s.IPAddressPools)
	s.Interfaces = unique(s.Interfaces)
	return ""
}

// unique keeps the first of equal strings, in order.
func unique(in []string) []string {
	var out []string
	for _, s := range in {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// typedTarget is a target over a typed client. T is a pointer to an API object, S its spec.
type typedTarget[T interface {
	runtime.Object
	metav1.Object
}, S any] struct {
	client Client[T]
	cache  cache.SharedIndexInformer
	// fields of MetalLB's spec that are read.
	fields []string
	make   func() T
	spec   func(T) *S
	// normalise fills in defaults and returns what is left to do, empty for nothing.
	normalise func(*S) string
}

func (t *typedTarget[T, S]) informer() cache.SharedIndexInformer { return t.cache }

func (t *typedTarget[T, S]) get(name string) metav1.Object {
	obj, found, err := t.cache.GetStore().GetByKey(name)
	if err != nil || !found {
		return nil // a cache's GetByKey never fails
	}
	o, ok := obj.(T)
	if !ok {
		return nil
	}
	return o
}

// convertError marks a source that does not fit the target's schema.
type convertError struct{ err error }

func (e convertError) Error() string { return e.err.Error() }
func (e convertError) Unwrap() error { return e.err }

func (t *typedTarget[T, S]) put(ctx context.Context, src *unstructured.Unstructured, existing metav1.Object) (bool, remarks, error) {
	want := t.make()
	if existing != nil {
		old, ok := existing.(T)
		if !ok {
			return false, remarks{}, fmt.Errorf("unexpected %T in the cache", existing)
		}
		copied, ok := old.DeepCopyObject().(T)
		if !ok {
			return false, remarks{}, fmt.Errorf("unexpected copy of %T", existing)
		}
		want = copied
	}
	told, err := t.fill(want, src)
	if err != nil {
		return false, remarks{}, convertError{err}
	}
	if existing == nil {
		_, err := t.client.Create(ctx, want, metav1.CreateOptions{})
		return err == nil, told, err
	}
	if old, ok := existing.(T); ok && equality.Semantic.DeepEqual(old, want) {
		return false, told, nil
	}
	_, err = t.client.Update(ctx, want, metav1.UpdateOptions{})
	return err == nil, told, err
}

// fill copies name, labels (which selectors match) and spec of the source.
func (t *typedTarget[T, S]) fill(dst T, src *unstructured.Unstructured) (remarks, error) {
	spec, _, err := unstructured.NestedMap(src.Object, "spec")
	if err != nil {
		return remarks{}, fmt.Errorf("read spec: %w", err)
	}
	converted, unread, err := readSpec[S](spec, t.fields)
	if err != nil {
		return remarks{}, err
	}
	told := remarks{unread: unread, todo: t.normalise(&converted)}
	*t.spec(dst) = converted
	labels := maps.Clone(src.GetLabels())
	if labels == nil {
		labels = map[string]string{}
	}
	labels[v1alpha1.LabelSource] = sourceMetalLB
	dst.SetName(src.GetName())
	dst.SetLabels(labels)
	dst.SetAnnotations(map[string]string{v1alpha1.AnnotationSourceObject: src.GetNamespace() + "/" + src.GetName()})
	return told, nil
}

func (t *typedTarget[T, S]) remove(ctx context.Context, existing metav1.Object) error {
	uid := existing.GetUID()
	return t.client.Delete(ctx, existing.GetName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
}
