// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/harness"
)

// kinds that the witness follows.
func kinds() map[string]schema.GroupVersionResource {
	ours := v1alpha1.SchemeGroupVersion()
	return map[string]schema.GroupVersionResource{
		"service": corev1.SchemeGroupVersion.WithResource("services"),
		"claim":   ours.WithResource("ipclaims"),
		"record":  ours.WithResource("loadbalancers"),
	}
}

// Witness writes down every revision of every Service, claim and record.
type Witness struct {
	client dynamic.Interface

	mu     sync.Mutex
	events []Event
	known  map[string]map[string]bool
	// relists count how often a watch could not be taken up again where it ended, so
	// that revisions in between were not seen.
	relists int
	err     error
}

// NewWitness makes a witness that asks the API server directly.
func NewWitness(c *rest.Config) (*Witness, error) {
	client, err := dynamic.NewForConfig(c)
	if err != nil {
		return nil, fmt.Errorf("make a witness: %w", err)
	}
	return &Witness{client: client, known: map[string]map[string]bool{}}, nil
}

// Run follows all kinds until ctx ends.
func (w *Witness) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for kind, resource := range kinds() {
		w.known[kind] = map[string]bool{}
		wg.Go(func() { w.follow(ctx, kind, resource) })
	}
	wg.Wait()
}

// Events returns what was seen so far, how many lists had to be repeated and whether
// anything could not be understood.
func (w *Witness) Events() (events []Event, relists int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Event(nil), w.events...), w.relists, w.err
}

// retryPause keeps a witness from hammering a server that is away.
const retryPause = 200 * time.Millisecond

func (w *Witness) follow(ctx context.Context, kind string, resource schema.GroupVersionResource) {
	revision := ""
	for first := true; ctx.Err() == nil; {
		if revision == "" {
			var err error
			if revision, err = w.list(ctx, kind, resource, first); err != nil {
				_ = harness.Pause(ctx, retryPause)
				continue
			}
			first = false
		}
		if revision = w.watch(ctx, kind, resource, revision); ctx.Err() == nil {
			_ = harness.Pause(ctx, retryPause)
		}
	}
}

// list takes everything as it is at one revision; what is gone since was deleted.
func (w *Witness) list(ctx context.Context, kind string, resource schema.GroupVersionResource, first bool) (string, error) {
	list, err := w.client.Resource(resource).List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", fmt.Errorf("list %s: %w", resource.Resource, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !first {
		w.relists++
	}
	revision := list.GetResourceVersion()
	gone := w.known[kind]
	w.known[kind] = map[string]bool{}
	for i := range list.Items {
		o := &list.Items[i]
		delete(gone, key(o))
		o.SetResourceVersion(revision)
		w.take(kind, o, false)
	}
	for k := range gone {
		w.events = append(w.events, Event{Revision: w.number(revision), Kind: kind, Key: k})
	}
	return revision, nil
}

// watch follows from a revision on and returns where to go on, empty for a new list.
func (w *Witness) watch(ctx context.Context, kind string, resource schema.GroupVersionResource, revision string) string {
	stream, err := w.client.Resource(resource).Watch(ctx, metav1.ListOptions{ResourceVersion: revision, AllowWatchBookmarks: true})
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return ""
	}
	if err != nil {
		return revision
	}
	defer stream.Stop()
	for e := range stream.ResultChan() {
		if e.Type == watch.Error {
			if err := apierrors.FromObject(e.Object); apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
				return ""
			}
			return revision
		}
		o, ok := e.Object.(*unstructured.Unstructured)
		if !ok {
			continue
		}
		revision = o.GetResourceVersion()
		if e.Type != watch.Bookmark {
			w.mu.Lock()
			w.take(kind, o, e.Type == watch.Deleted)
			w.mu.Unlock()
		}
	}
	return revision
}

func key(o *unstructured.Unstructured) string {
	if ns := o.GetNamespace(); ns != "" {
		return ns + "/" + o.GetName()
	}
	return o.GetName()
}

// number reads a revision.
func (w *Witness) number(revision string) uint64 {
	n, err := strconv.ParseUint(revision, 10, 64)
	if err != nil && w.err == nil {
		w.err = fmt.Errorf("read a revision: %w", err)
	}
	return n
}

// take writes one event down.
func (w *Witness) take(kind string, o *unstructured.Unstructured, deleted bool) {
	e := Event{Revision: w.number(o.GetResourceVersion()), Kind: kind, Key: key(o)}
	if deleted {
		delete(w.known[kind], e.Key)
		w.events = append(w.events, e)
		return
	}
	w.known[kind][e.Key] = true
	if err := fill(&e, o); err != nil && w.err == nil {
		w.err = err
	}
	w.events = append(w.events, e)
}

// fill converts the object of an event.
func fill(e *Event, o *unstructured.Unstructured) error {
	convert := runtime.DefaultUnstructuredConverter.FromUnstructured
	var err error
	switch e.Kind {
	case "service":
		var svc corev1.Service
		if err = convert(o.Object, &svc); err == nil {
			e.Service = serviceOf(&svc)
		}
	case "claim":
		var c v1alpha1.IPClaim
		if err = convert(o.Object, &c); err == nil {
			e.Claim = claimOf(&c)
		}
	case "record":
		var r v1alpha1.LoadBalancer
		if err = convert(o.Object, &r); err == nil {
			e.Record = recordOf(&r)
		}
	}
	if err != nil {
		return fmt.Errorf("read %s %s: %w", e.Kind, e.Key, err)
	}
	return nil
}

// look lists everything for an audit.
func look(ctx context.Context, client dynamic.Interface, namespaces map[string]bool) (*World, error) {
	world := &World{Now: time.Now()}
	for kind, resource := range kinds() {
		list, err := client.Resource(resource).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", resource.Resource, err)
		}
		for i := range list.Items {
			o := &list.Items[i]
			if ns := o.GetNamespace(); ns != "" && !namespaces[ns] {
				continue
			}
			e := Event{Kind: kind, Key: key(o)}
			if err := fill(&e, o); err != nil {
				return nil, err
			}
			switch {
			case e.Service != nil:
				world.Services = append(world.Services, e.Service)
			case e.Claim != nil:
				world.Claims = append(world.Claims, e.Claim)
			case e.Record != nil:
				world.Records = append(world.Records, e.Record)
			}
		}
	}
	list, err := client.Resource(v1alpha1.SchemeGroupVersion().WithResource("ipaddresspools")).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list pools: %w", err)
	}
	for i := range list.Items {
		var p v1alpha1.IPAddressPool
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(list.Items[i].Object, &p); err != nil {
			return nil, fmt.Errorf("read a pool: %w", err)
		}
		world.Pools = append(world.Pools, p)
	}
	return world, nil
}
