// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// detector finds a MetalLB: a Deployment or DaemonSet with its label, in its
// namespace. One scaled to nothing counts as well, because it may be back any moment.
type detector struct {
	factory   informers.SharedInformerFactory
	workloads []cache.SharedIndexInformer
}

func newDetector(kube kubernetes.Interface, namespace string, changed func()) (*detector, error) {
	f := informers.NewSharedInformerFactoryWithOptions(kube, 0,
		informers.WithNamespace(namespace), informers.WithTransform(onlyMetadata))
	d := &detector{factory: f, workloads: []cache.SharedIndexInformer{
		f.Apps().V1().Deployments().Informer(), f.Apps().V1().DaemonSets().Informer(),
	}}
	for _, w := range d.workloads {
		if _, err := w.AddEventHandler(onAny(func(obj metav1.Object) {
			if isMetalLB(obj) {
				changed()
			}
		})); err != nil {
			return nil, fmt.Errorf("add event handler: %w", err)
		}
	}
	return d, nil
}

// onlyMetadata drops what is not looked at before it is cached.
func onlyMetadata(obj any) (any, error) {
	if o, ok := obj.(metav1.Object); ok {
		o.SetManagedFields(nil)
		o.SetAnnotations(nil)
	}
	return obj, nil
}

func isMetalLB(obj metav1.Object) bool {
	l := obj.GetLabels()
	return l["app"] == "metallb" || l["app.kubernetes.io/name"] == "metallb"
}

// run fills and follows the caches until ctx is done.
func (d *detector) run(ctx context.Context) {
	d.factory.StartWithContext(ctx)
	<-ctx.Done()
	d.factory.Shutdown()
}

func (d *detector) hasSynced() bool {
	return !slices.ContainsFunc(d.workloads, func(w cache.SharedIndexInformer) bool { return !w.HasSynced() })
}

// found returns the kind and name of a MetalLB workload, empty when none exists.
func (d *detector) found() string {
	var names []string
	for i, w := range d.workloads {
		for _, obj := range w.GetStore().List() {
			if o, ok := obj.(metav1.Object); ok && isMetalLB(o) {
				names = append(names, []string{"Deployment ", "DaemonSet "}[i]+o.GetName())
			}
		}
	}
	if len(names) == 0 {
		return ""
	}
	return slices.Min(names)
}
