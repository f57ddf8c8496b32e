// SPDX-License-Identifier: Apache-2.0

// Package intake keeps local copies of the objects that a node agent plans by, and
// converts them into domain values. It owns the informers and marks the owner loop's
// state dirty when anything changes; it must not decide or write anything. Copies stay
// as they are while the API server is away, so that the agent goes on.
package intake

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	discoveryv1client "k8s.io/client-go/kubernetes/typed/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
)

// byService indexes EndpointSlices by namespace/name of their Service.
const byService = "service"

// Clients to list and watch with.
type Clients struct {
	Fairlead  *client.Client
	Core      corev1client.NodesGetter
	Discovery discoveryv1client.EndpointSlicesGetter
	Secrets   corev1client.SecretsGetter
}

// Own is whose copies they are.
type Own struct {
	Node loadbalancer.NodeName
	// Namespace of the agent, where the Secrets of BGP sessions are.
	Namespace string
}

// Intake is the local copy. Its methods are safe for concurrent use.
type Intake struct {
	claims, records, ads, nodes, slices cache.SharedIndexInformer

	own Own
	bgp bgp

	mu       sync.Mutex
	problems map[string]string // guarded by mu: what was reported, by object

	converting sync.Mutex
	// guarded by converting
	knownClaims  mirror[v1alpha1.IPClaim, claim]
	knownRecords mirror[v1alpha1.LoadBalancer, loadbalancer.Record]
	knownNodes   mirror[corev1.Node, node]
	knownAds     mirror[v1alpha1.L2Advertisement, *v1alpha1.L2Advertisement]
	endpoints    endpoints
	// last is what Objects returned; claimAt is where a claim is in it.
	last    Objects
	claimAt map[loadbalancer.Group]int
	// allRead is when all copies were looked at.
	allRead time.Time
}

// New makes an intake. notify is called after every change; it must not block.
func New(c Clients, own Own, notify func()) (*Intake, error) {
	nodes, slices := c.Core.Nodes(), c.Discovery.EndpointSlices(metav1.NamespaceAll)
	i := &Intake{
		claims:   client.NewInformer(c.Fairlead.Claims(), &v1alpha1.IPClaim{}, 0, cache.Indexers{}),
		records:  client.NewInformer(c.Fairlead.LoadBalancers(metav1.NamespaceAll), &v1alpha1.LoadBalancer{}, 0, cache.Indexers{}),
		ads:      client.NewInformer(c.Fairlead.L2Advertisements(), &v1alpha1.L2Advertisement{}, 0, cache.Indexers{}),
		nodes:    client.NewInformer(nodes, &corev1.Node{}, 0, cache.Indexers{}),
		slices:   client.NewInformer(slices, &discoveryv1.EndpointSlice{}, 0, cache.Indexers{byService: serviceOf}),
		problems: make(map[string]string),
		own:      own, bgp: newBGP(c, own),
	}
	i.mirror()
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { notify() },
		UpdateFunc: func(before, after any) {
			if !onlyStatus(before, after) {
				notify()
			}
		},
		DeleteFunc: func(any) { notify() },
	}
	for _, inf := range i.informers() {
		if err := inf.SetTransform(i.slim); err != nil {
			return nil, fmt.Errorf("set transform: %w", err)
		}
		h := cache.ResourceEventHandler(handler)
		switch inf {
		case i.slices:
			h = cache.FilteringResourceEventHandler{FilterFunc: i.matters, Handler: handler}
		case i.bgp.secrets:
			h = cache.FilteringResourceEventHandler{FilterFunc: i.named, Handler: handler}
		}
		if _, err := inf.AddEventHandler(toucher{i.toucher(inf), h}); err != nil {
			return nil, fmt.Errorf("add event handler: %w", err)
		}
	}
	return i, nil
}

// mirror makes what the converted copies are kept in.
func (i *Intake) mirror() {
	i.knownClaims = newMirror[v1alpha1.IPClaim, claim](i.claims)
	i.knownRecords = newMirror[v1alpha1.LoadBalancer, loadbalancer.Record](i.records)
	i.knownNodes = newMirror[corev1.Node, node](i.nodes)
	i.knownAds = newMirror[v1alpha1.L2Advertisement, *v1alpha1.L2Advertisement](i.ads)
	i.endpoints.slices = newMirror[discoveryv1.EndpointSlice, loadbalancer.ServiceKey](i.slices)
	i.last.Records = make(map[loadbalancer.ServiceUID]loadbalancer.Record)
	i.claimAt = make(map[loadbalancer.Group]int)
}

// toucher is what is to be told of every object of an informer that may be another.
func (i *Intake) toucher(inf cache.SharedIndexInformer) func(obj any) {
	switch inf {
	case i.claims:
		return i.knownClaims.touch
	case i.records:
		return i.knownRecords.touch
	case i.nodes:
		return i.knownNodes.touch
	case i.ads:
		return i.knownAds.touch
	case i.slices:
		return i.endpoints.slices.touch
	default:
		return func(any) {}
	}
}

// toucher tells of every object before its event is handled, which events there may be filtered
// of: whoever is woken finds all that happened before.
type toucher struct {
	touch func(obj any)
	then  cache.ResourceEventHandler
}

// OnAdd implements cache.ResourceEventHandler.
func (t toucher) OnAdd(obj any, initial bool) {
	t.touch(obj)
	t.then.OnAdd(obj, initial)
}

// OnUpdate implements cache.ResourceEventHandler.
func (t toucher) OnUpdate(before, after any) {
	t.touch(after)
	t.then.OnUpdate(before, after)
}

// OnDelete implements cache.ResourceEventHandler.
func (t toucher) OnDelete(obj any) {
	t.touch(obj)
	t.then.OnDelete(obj)
}

func (i *Intake) informers() []cache.SharedIndexInformer {
	return append([]cache.SharedIndexInformer{i.claims, i.records, i.ads, i.nodes, i.slices}, i.bgp.informers()...)
}

// slim drops what the agent never reads: with thousands of objects it is most of them.
func (i *Intake) slim(obj any) (any, error) {
	if m, ok := obj.(metav1.Object); ok {
		m.SetManagedFields(nil)
	}
	switch o := obj.(type) {
	case *corev1.Node:
		o.Status.Images = nil
		if o.Name == string(i.own.Node) {
			o.Annotations = onlyRead(o.Annotations)
		} else {
			o.Annotations = onlyWeight(o.Annotations)
		}
	case *corev1.Secret:
		slimSecret(o)
	case *discoveryv1.EndpointSlice:
		o.Annotations = onlyWeight(o.Annotations)
		for n := range o.Endpoints {
			e := &o.Endpoints[n]
			e.Hints, e.TargetRef, e.DeprecatedTopology, e.Hostname, e.Zone = nil, nil, nil, nil, nil
		}
	}
	return obj, nil
}

// onlyWeight keeps the one annotation of nodes and slices that is read.
func onlyWeight(annotations map[string]string) map[string]string {
	if w, ok := annotations[v1alpha1.AnnotationWeight]; ok {
		return map[string]string{v1alpha1.AnnotationWeight: w}
	}
	return nil
}

func serviceOf(obj any) ([]string, error) {
	s, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok {
		return nil, fmt.Errorf("unexpected object %T", obj)
	}
	if name := s.Labels[discoveryv1.LabelServiceName]; name != "" {
		return []string{s.Namespace + "/" + name}, nil
	}
	return nil, nil
}

// onlyStatus says whether an update is of a status that no plan depends on: the controller
// writes those of records, advertisements and peers, several for each new Service. The API
// server raises the generation with every other change of them but that of metadata,
// which is not read.
func onlyStatus(before, after any) bool {
	switch after.(type) {
	case *v1alpha1.LoadBalancer, *v1alpha1.L2Advertisement, *v1alpha1.BGPPeer, *v1alpha1.BGPAdvertisement:
	default:
		return false
	}
	old, ok := before.(metav1.Object)
	now, okNow := after.(metav1.Object)
	return ok && okNow && old.GetUID() == now.GetUID() && old.GetGeneration() == now.GetGeneration()
}

// matters says whether a plan depends on an EndpointSlice, which change all the time: it
// does if its Service has a record with the Local policy, which tells who may announce, or
// one that IPVS forwards. Should the record come later, the record's own event counts.
func (i *Intake) matters(obj any) bool {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	keys, err := serviceOf(obj)
	if err != nil || len(keys) == 0 {
		return false
	}
	lb := client.Get[v1alpha1.LoadBalancer](i.records, keys[0])
	return lb != nil &&
		(lb.Spec.ExternalTrafficPolicy == v1alpha1.TrafficPolicyLocal || lb.Spec.Forwarding == v1alpha1.ForwardingIPVS)
}

// Run lists and watches until ctx ends, reconnecting for ever.
func (i *Intake) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, inf := range i.informers() {
		wg.Go(func() { inf.RunWithContext(ctx) })
	}
	wg.Wait()
	return nil
}

// Synced says whether every list was read once.
func (i *Intake) Synced() bool {
	for _, inf := range i.informers() {
		if !inf.HasSynced() {
			return false
		}
	}
	return true
}

// syncPoll is how often WaitSynced looks.
const syncPoll = 50 * time.Millisecond

// WaitSynced blocks until [Intake.Synced] or ctx ends, and says which.
func (i *Intake) WaitSynced(ctx context.Context) bool {
	t := time.NewTicker(syncPoll)
	defer t.Stop()
	for !i.Synced() {
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
		}
	}
	return true
}

// Claim returns the copy of a claim; it must not be changed.
func (i *Intake) Claim(name string) (*v1alpha1.IPClaim, bool) {
	c := client.Get[v1alpha1.IPClaim](i.claims, name)
	return c, c != nil
}

// NodeUID returns the UID of a Node, empty when it is not known.
func (i *Intake) NodeUID(name loadbalancer.NodeName) types.UID {
	if n := client.Get[corev1.Node](i.nodes, string(name)); n != nil {
		return n.UID
	}
	return ""
}

func each[T any](inf cache.SharedIndexInformer) func(yield func(T) bool) {
	return func(yield func(T) bool) {
		for _, o := range inf.GetStore().List() {
			if t, ok := o.(T); ok && !yield(t) {
				return
			}
		}
	}
}

// report logs a problem of an object when it is new or different.
func (i *Intake) report(ctx context.Context, object string, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err == nil {
		delete(i.problems, object)
		return
	}
	if i.problems[object] != err.Error() {
		i.problems[object] = err.Error()
		klog.FromContext(ctx).Error(err, "Cannot use object", "object", object)
	}
}
