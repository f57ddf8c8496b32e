// SPDX-License-Identifier: Apache-2.0

// Package fakeapi is a stateful fake of the API server for the tests of the provider's
// controllers: objects of one kind with UIDs, resource versions, generations,
// compare-and-swap, preconditions and server-side apply as far as those controllers use
// them, an informer over them, a log of the writes and failures on demand.
//
// It owns nothing outside a test and must not be imported by anything else. Tests may
// call it from any goroutine.
package fakeapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	cachetesting "k8s.io/client-go/tools/cache/testing"
)

// Object is a pointer to an API type.
type Object interface {
	runtime.Object
	metav1.Object
}

// Store holds the objects of one kind. Make it with NewStore.
type Store[T Object] struct {
	resource schema.GroupResource
	source   *cachetesting.FakeControllerSource
	informer cache.SharedIndexInformer

	mu      sync.Mutex
	objects map[string]T
	uids    int
	fail    func(verb, name string) error
	log     []string
}

// source adds to the fake of client-go that it cannot stream a first list.
type source struct {
	*cachetesting.FakeControllerSource
}

// IsWatchListSemanticsUnSupported makes informers list before they watch.
func (source) IsWatchListSemanticsUnSupported() bool { return true }

// NewStore makes an empty store of the example's kind.
func NewStore[T Object](resource string, example T) *Store[T] {
	s := &Store[T]{
		resource: schema.GroupResource{Resource: resource},
		source:   cachetesting.NewFakeControllerSource(),
		objects:  map[string]T{},
	}
	s.informer = cache.NewSharedIndexInformer(source{s.source}, example, 0, cache.Indexers{})
	return s
}

// Informer returns the one informer of the store; Run starts it.
func (s *Store[T]) Informer() cache.SharedIndexInformer { return s.informer }

// Run feeds the informer until ctx is done.
func (s *Store[T]) Run(ctx context.Context) {
	s.informer.RunWithContext(ctx)
	// Not the source's own Shutdown, which keeps its lock: an informer that lists again just
	// then, as one does that was refused, would wait for it for ever.
	s.source.Broadcaster.Shutdown()
}

// FailWith makes writes fail as f says; nil ends it. Verbs: create, update, delete, apply.
func (s *Store[T]) FailWith(f func(verb, name string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = f
}

// Log returns the successful writes that came through clients since the last call, as
// "verb namespace/name".
func (s *Store[T]) Log() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	log := s.log
	s.log = nil
	return log
}

// Put stores an object as if somebody else had written it: created when absent, else replaced.
func (s *Store[T]) Put(tb testing.TB, obj T) T {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	old, found := s.objects[key(obj)]
	if !found {
		return s.insert(copyOf(obj))
	}
	stored, err := s.replace(old, copyOf(obj))
	if err != nil {
		tb.Fatalf("put %s: %v", key(obj), err)
	}
	return stored
}

// Remove deletes an object as if somebody else had.
func (s *Store[T]) Remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, found := s.objects[name]; found {
		delete(s.objects, name)
		s.source.Delete(copyOf(old))
	}
}

// Find returns a copy of an object by namespace/name, and whether it exists.
func (s *Store[T]) Find(name string) (T, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	obj, found := s.objects[name]
	if !found {
		return obj, false
	}
	return copyOf(obj), true
}

// In returns a client of one namespace, "" for cluster-scoped kinds.
func (s *Store[T]) In(namespace string) *Client[T] { return &Client[T]{s, namespace} }

// Client is a client of one namespace of a store.
type Client[T Object] struct {
	store     *Store[T]
	namespace string
}

func (c *Client[T]) key(name string) string {
	if c.namespace == "" {
		return name
	}
	return c.namespace + "/" + name
}

// begin checks for an injected failure; the caller holds the lock.
func (c *Client[T]) begin(verb, name string) error {
	if c.store.fail == nil {
		return nil
	}
	return c.store.fail(verb, c.key(name))
}

func (c *Client[T]) done(verb, name string) { c.store.log = append(c.store.log, verb+" "+c.key(name)) }

// Get returns a copy.
func (c *Client[T]) Get(_ context.Context, name string, _ metav1.GetOptions) (T, error) {
	obj, found := c.store.Find(c.key(name))
	if !found {
		return obj, apierrors.NewNotFound(c.store.resource, name)
	}
	return obj, nil
}

// Create stores a new object.
func (c *Client[T]) Create(_ context.Context, obj T, _ metav1.CreateOptions) (T, error) {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	var none T
	if err := c.begin("create", obj.GetName()); err != nil {
		return none, err
	}
	if _, found := c.store.objects[key(obj)]; found {
		return none, apierrors.NewAlreadyExists(c.store.resource, obj.GetName())
	}
	c.done("create", obj.GetName())
	return c.store.insert(copyOf(obj)), nil
}

// Update replaces an object whose resource version is still the one given.
func (c *Client[T]) Update(_ context.Context, obj T, _ metav1.UpdateOptions) (T, error) {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	var none T
	if err := c.begin("update", obj.GetName()); err != nil {
		return none, err
	}
	old, found := c.store.objects[key(obj)]
	if !found {
		return none, apierrors.NewNotFound(c.store.resource, obj.GetName())
	}
	if old.GetResourceVersion() != obj.GetResourceVersion() || old.GetUID() != obj.GetUID() {
		return none, apierrors.NewConflict(c.store.resource, obj.GetName(), errors.New("changed meanwhile"))
	}
	c.done("update", obj.GetName())
	return c.store.replace(old, copyOf(obj))
}

// Delete removes an object that meets the preconditions.
func (c *Client[T]) Delete(_ context.Context, name string, opts metav1.DeleteOptions) error {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	if err := c.begin("delete", name); err != nil {
		return err
	}
	old, found := c.store.objects[c.key(name)]
	if !found {
		return apierrors.NewNotFound(c.store.resource, name)
	}
	if p := opts.Preconditions; p != nil &&
		((p.UID != nil && *p.UID != old.GetUID()) || (p.ResourceVersion != nil && *p.ResourceVersion != old.GetResourceVersion())) {
		return apierrors.NewConflict(c.store.resource, name, errors.New("precondition failed"))
	}
	c.done("delete", name)
	delete(c.store.objects, c.key(name))
	c.store.source.Delete(copyOf(old))
	return nil
}

// Patch understands server-side apply of one manager: fields of spec are set one by
// one, status is replaced. Without the object, or with another UID, it conflicts.
func (c *Client[T]) Patch(_ context.Context, name string, pt types.PatchType, data []byte, opts metav1.PatchOptions, sub ...string) (T, error) {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	var none T
	if err := c.begin("apply", name); err != nil {
		return none, err
	}
	if pt != types.ApplyPatchType || opts.FieldManager == "" {
		return none, apierrors.NewBadRequest("only server-side apply with a field manager")
	}
	old, found := c.store.objects[c.key(name)]
	if !found {
		return none, apierrors.NewNotFound(c.store.resource, name)
	}
	var patch struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
		Spec     map[string]any    `json:"spec"`
		Status   map[string]any    `json:"status"`
	}
	if err := json.Unmarshal(data, &patch); err != nil {
		return none, apierrors.NewBadRequest(err.Error())
	}
	if patch.Metadata.UID != old.GetUID() {
		return none, apierrors.NewConflict(c.store.resource, name, errors.New("uid mismatch"))
	}
	applied, err := merge(old, patch.Spec, patch.Status, slices.Contains(sub, "status"))
	if err != nil {
		return none, apierrors.NewBadRequest(err.Error())
	}
	c.done("apply", name)
	return c.store.replace(old, applied)
}

func merge[T Object](old T, spec, status map[string]any, statusOnly bool) (T, error) {
	var none T
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(old)
	if err != nil {
		return none, err
	}
	if statusOnly {
		object["status"] = status
	} else if into, ok := object["spec"].(map[string]any); ok {
		maps.Copy(into, spec)
	}
	data, err := json.Marshal(object)
	if err != nil {
		return none, err
	}
	fresh, ok := reflect.TypeAssert[T](reflect.New(reflect.TypeOf(old).Elem()))
	if !ok {
		return none, fmt.Errorf("a new %T has another type", old)
	}
	return fresh, json.Unmarshal(data, fresh)
}

func (s *Store[T]) insert(obj T) T {
	s.uids++
	if obj.GetUID() == "" {
		obj.SetUID(types.UID(fmt.Sprintf("%s-%d", s.resource.Resource, s.uids)))
	}
	if created := obj.GetCreationTimestamp(); created.IsZero() {
		obj.SetCreationTimestamp(metav1.Now())
	}
	obj.SetGeneration(1)
	s.source.Add(obj) // sets the resource version
	s.objects[key(obj)] = obj
	return copyOf(obj)
}

// replace stores a new version, unless it is the same; the generation counts specs.
func (s *Store[T]) replace(old, obj T) (T, error) {
	obj.SetUID(old.GetUID())
	obj.SetCreationTimestamp(old.GetCreationTimestamp())
	obj.SetGeneration(old.GetGeneration())
	obj.SetResourceVersion(old.GetResourceVersion())
	before, errBefore := runtime.DefaultUnstructuredConverter.ToUnstructured(old)
	after, errAfter := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err := errors.Join(errBefore, errAfter); err != nil {
		return obj, err
	}
	if equalJSON(before, after) {
		return copyOf(old), nil
	}
	if !equalJSON(before["spec"], after["spec"]) {
		obj.SetGeneration(old.GetGeneration() + 1)
	}
	s.source.Modify(obj)
	s.objects[key(obj)] = obj
	return copyOf(obj), nil
}

func equalJSON(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

// copyOf is DeepCopyObject with its type kept.
func copyOf[T Object](obj T) T {
	c, ok := obj.DeepCopyObject().(T)
	if !ok {
		return obj // generated DeepCopyObject always returns its own type
	}
	return c
}

func key(obj metav1.Object) string {
	if obj.GetNamespace() == "" {
		return obj.GetName()
	}
	return obj.GetNamespace() + "/" + obj.GetName()
}
