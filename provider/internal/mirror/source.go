// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"context"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// presence says whether a metallb.io kind can be read.
type presence uint8

const (
	// unknown: not asked yet, or its cache is not filled. Nothing may be concluded.
	unknown presence = iota
	// absent: the API server has no such kind, hence no object of it.
	absent
	// present: the cache holds every object.
	present
)

// source reads one metallb.io kind, which may come and go.
type source struct {
	resource string
	// versions of the kind, best first.
	versions []string
	// interval between two looks at whether the kind exists.
	interval time.Duration

	mu       sync.Mutex
	presence presence    // guarded by mu
	store    cache.Store // guarded by mu; nil unless present
}

func newSource(resource string, interval time.Duration, versions ...string) *source {
	return &source{resource: resource, versions: versions, interval: interval}
}

// name is the kind's name in messages.
func (s *source) name() string { return s.resource + "." + sourceMetalLB }

func (s *source) set(p presence, store cache.Store) (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed = s.presence != p
	s.presence, s.store = p, store
	return changed
}

// get returns one object, nil when there is none, and whether that can be known.
func (s *source) get(namespace, name string) (*unstructured.Unstructured, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.presence != present {
		return nil, s.presence == absent
	}
	obj, found, err := s.store.GetByKey(namespace + "/" + name)
	if err != nil || !found {
		return nil, true // a cache's GetByKey never fails
	}
	u, ok := obj.(*unstructured.Unstructured)
	return u, ok
}

func (s *source) list() []*unstructured.Unstructured {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.presence != present {
		return nil
	}
	var out []*unstructured.Unstructured
	for _, obj := range s.store.List() {
		if u, ok := obj.(*unstructured.Unstructured); ok {
			out = append(out, u)
		}
	}
	return out
}

// follow asks now and then whether the kind exists, and runs an informer while it does.
// CustomResourceDefinitions come and go so rarely that polling one list of one item is
// cheaper to get right than a watch on the definitions, and needs no right on them.
func (c *Controller) follow(ctx context.Context, k *kind) {
	ticker := time.NewTicker(k.source.interval)
	defer ticker.Stop()
	for {
		if gvr, ok := c.probe(ctx, k); ok {
			c.followWhilePresent(ctx, k, gvr, ticker.C)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// probe asks in which version the kind exists; false also when that cannot be told.
func (c *Controller) probe(ctx context.Context, k *kind) (schema.GroupVersionResource, bool) {
	for _, version := range k.source.versions {
		gvr := schema.GroupVersionResource{Group: sourceMetalLB, Version: version, Resource: k.source.resource}
		_, err := c.opts.Dynamic.Resource(gvr).List(ctx, metav1.ListOptions{Limit: 1})
		switch {
		case err == nil:
			return gvr, true
		case apierrors.IsNotFound(err):
			continue
		case ctx.Err() == nil:
			klog.FromContext(ctx).V(2).Info("Cannot tell whether kind exists", "resource", k.source.name(), "err", err)
		}
		return schema.GroupVersionResource{}, false
	}
	if k.source.set(absent, nil) {
		klog.FromContext(ctx).V(2).Info("Kind does not exist, nothing to mirror", "resource", k.source.name())
		c.markKind(k)
	}
	return schema.GroupVersionResource{}, false
}

// followWhilePresent runs an informer until the kind is gone or ctx is done. Failing
// probes for other causes stop nothing: the informer reconnects by itself.
func (c *Controller) followWhilePresent(ctx context.Context, k *kind, gvr schema.GroupVersionResource, tick <-chan time.Time) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { c.runInformer(ctx, k, gvr) })
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
		_, err := c.opts.Dynamic.Resource(gvr).List(ctx, metav1.ListOptions{Limit: 1})
		if apierrors.IsNotFound(err) {
			return // the next probe says so
		}
	}
}

// runInformer fills and follows a cache of the kind until ctx is done.
func (c *Controller) runInformer(ctx context.Context, k *kind, gvr schema.GroupVersionResource) {
	logger := klog.FromContext(ctx).WithValues("resource", k.source.name(), "version", gvr.Version)
	informer := dynamicinformer.NewFilteredDynamicInformer(c.opts.Dynamic, gvr, metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer()
	if k.target == nil {
		if err := informer.SetTransform(onlyNames); err != nil {
			logger.Error(err, "Cannot follow kind")
			return
		}
	}
	if _, err := informer.AddEventHandler(onAny(func(obj metav1.Object) {
		c.queue.Add(key{k.name, obj.GetNamespace(), obj.GetName()})
	})); err != nil {
		logger.Error(err, "Cannot follow kind")
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { informer.RunWithContext(ctx) })
	filled := []cache.InformerSynced{informer.HasSynced}
	if k.target != nil {
		filled = append(filled, k.copiesKnown)
	}
	if !cache.WaitForCacheSync(ctx.Done(), filled...) {
		return
	}
	k.source.set(present, informer.GetStore())
	if k.target != nil {
		logger.Info("Mirroring kind", "namespace", c.opts.Namespace)
	}
	c.markKind(k)
	<-ctx.Done()
	k.source.set(unknown, nil)
}

// onlyNames drops all but the metadata of an object that is not read.
func onlyNames(obj any) (any, error) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		u.SetManagedFields(nil)
		u.SetAnnotations(nil)
		delete(u.Object, "spec")
		delete(u.Object, "status")
	}
	return obj, nil
}
