// SPDX-License-Identifier: Apache-2.0

// Package store is the controller's one view of claims, records and pools, and the
// one place that writes claims and records. It is fed by informers and remembers its
// own writes, so that it never falls behind what this process did; it holds the
// ledger of taken addresses under one mutex, so that concurrent workers never choose
// the same one; and it turns lost compare-and-swaps into [ErrConflict] with fresh
// state. It does not decide what a Service gets (loadbalancer/pool does) nor when to
// write (allocation does). Service workers, informer goroutines and the other
// controllers call it; it is safe for concurrent use.
package store

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
)

// ErrConflict means that a compare-and-swap was lost. The store has fetched what won:
// decide again.
var ErrConflict = errors.New("another writer was faster")

// Claims writes and reads IPClaims at the API server.
type Claims interface {
	Create(ctx context.Context, c *v1alpha1.IPClaim, opts metav1.CreateOptions) (*v1alpha1.IPClaim, error)
	Update(ctx context.Context, c *v1alpha1.IPClaim, opts metav1.UpdateOptions) (*v1alpha1.IPClaim, error)
	Delete(ctx context.Context, name string, opts metav1.DeleteOptions) error
	Get(ctx context.Context, name string, opts metav1.GetOptions) (*v1alpha1.IPClaim, error)
	List(ctx context.Context, opts metav1.ListOptions) (*v1alpha1.IPClaimList, error)
}

// Records writes and reads LoadBalancers at the API server.
type Records interface {
	Create(ctx context.Context, r *v1alpha1.LoadBalancer, opts metav1.CreateOptions) (*v1alpha1.LoadBalancer, error)
	Update(ctx context.Context, r *v1alpha1.LoadBalancer, opts metav1.UpdateOptions) (*v1alpha1.LoadBalancer, error)
	Delete(ctx context.Context, name string, opts metav1.DeleteOptions) error
	Get(ctx context.Context, name string, opts metav1.GetOptions) (*v1alpha1.LoadBalancer, error)
	List(ctx context.Context, opts metav1.ListOptions) (*v1alpha1.LoadBalancerList, error)
}

// API is the API server as the store uses it: never through a cache.
type API interface {
	Claims() Claims
	Records(namespace string) Records
	ListPools(ctx context.Context) (*v1alpha1.IPAddressPoolList, error)
	ListServices(ctx context.Context) (*corev1.ServiceList, error)
}

// Listener hears of changes, after the store shows them. Its methods must not block.
type Listener interface {
	// AddressesChanged: an address may have become free or taken, or pools changed.
	AddressesChanged()
	// ServiceChanged: a Service, its record, one of its claims, or what it may have changed.
	ServiceChanged(key loadbalancer.ServiceKey)
}

// Options are a Store's parts.
type Options struct {
	API API
	// Classes says which Services are ours.
	Classes convert.Classes
	// Ranges are the cluster ranges that no object tells.
	Ranges []pool.ClusterRange
}

// Store is made by New.
type Store struct {
	api       API
	classes   convert.Classes
	ranges    []pool.ClusterRange
	listeners []Listener
	ready     chan struct{}

	mu sync.Mutex
	// The fields below are guarded by mu; objects in them are never modified.
	claims map[string]*v1alpha1.IPClaim
	// gone are deleted claims, records and pools, so that late news does not revive them.
	goneClaims, goneRecords, gonePools *graves

	byUID    map[types.UID]map[string]struct{}
	records  map[loadbalancer.ServiceKey]*v1alpha1.LoadBalancer
	services map[loadbalancer.ServiceKey]*corev1.Service
	// external are the Services with spec.externalIPs.
	external map[loadbalancer.ServiceKey]struct{}
	// rebound are the claims that this leader made from what statuses showed.
	rebound map[string]struct{}
	pools   map[string]*v1alpha1.IPAddressPool
	policy  *v1alpha1.ExternalIPPolicy
	set     *pool.Set
	ledger  *pool.Ledger
	// stale and staleReserved ask for set and the reserved addresses to be made anew
	// before they are used: a start brings thousands of Nodes and pools one by one.
	stale, staleReserved bool
	// inflight are addresses chosen for Services whose claims are not written yet;
	// booked is the same by Service.
	inflight map[netip.Addr][]booking
	booked   map[types.UID][]netip.Addr
	wanted   map[types.UID][]netip.Addr
	// owners are the nodes' own addresses with the node's name, and bookedOnNodes what
	// Services are about to serve there; see external.go.
	owners        map[netip.Addr]string
	bookedOnNodes map[types.UID]onNode
	// freed counts the changes that may let a waiting Service have an address.
	freed      uint64
	namespaces map[string]labels.Set
	cluster    clusterView
}

// New makes an empty store.
func New(o Options) *Store {
	return &Store{
		api:        o.API,
		classes:    o.Classes,
		ranges:     o.Ranges,
		ready:      make(chan struct{}),
		claims:     make(map[string]*v1alpha1.IPClaim),
		goneClaims: newGraves(), goneRecords: newGraves(), gonePools: newGraves(),
		byUID:         make(map[types.UID]map[string]struct{}),
		records:       make(map[loadbalancer.ServiceKey]*v1alpha1.LoadBalancer),
		services:      make(map[loadbalancer.ServiceKey]*corev1.Service),
		external:      make(map[loadbalancer.ServiceKey]struct{}),
		rebound:       make(map[string]struct{}),
		pools:         make(map[string]*v1alpha1.IPAddressPool),
		set:           pool.Compile(nil, nil),
		ledger:        pool.NewLedger(),
		inflight:      make(map[netip.Addr][]booking),
		booked:        make(map[types.UID][]netip.Addr),
		wanted:        make(map[types.UID][]netip.Addr),
		bookedOnNodes: make(map[types.UID]onNode),
		namespaces:    make(map[string]labels.Set),
		cluster:       newClusterView(),
		freed:         1,
	}
}

// Subscribe adds a listener; call it before anything is observed.
func (s *Store) Subscribe(l Listener) { s.listeners = append(s.listeners, l) }

// Classes returns which Services are ours.
func (s *Store) Classes() convert.Classes { return s.classes }

// WaitReady blocks until start-up reconciliation is done (see [Store.Run]): before it
// nothing may be allocated.
func (s *Store) WaitReady(ctx context.Context) error {
	select {
	case <-s.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Claim returns a claim by name, nil when there is none. The caller must not modify it.
func (s *Store) Claim(name string) *v1alpha1.IPClaim {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.claims[name]
}

// ClaimsOf returns the claims of any phase that name a Service, by name.
func (s *Store) ClaimsOf(uid types.UID) []*v1alpha1.IPClaim {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := slices.Sorted(maps.Keys(s.byUID[uid]))
	out := make([]*v1alpha1.IPClaim, 0, len(names))
	for _, n := range names {
		out = append(out, s.claims[n])
	}
	return out
}

// Record returns a Service's record, nil when there is none. The caller must not modify it.
func (s *Store) Record(key loadbalancer.ServiceKey) *v1alpha1.LoadBalancer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.records[key]
}

// Service returns a Service, nil when there is none. The caller must not modify it.
func (s *Store) Service(key loadbalancer.ServiceKey) *corev1.Service {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.services[key]
}

// Holding returns who holds an address, or is about to.
func (s *Store) Holding(a netip.Addr) (pool.Holding, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledger.Holding(a)
}

func (s *Store) tellAddresses() {
	for _, l := range s.listeners {
		l.AddressesChanged()
	}
}

func (s *Store) tellService(keys ...loadbalancer.ServiceKey) {
	for _, l := range s.listeners {
		for _, k := range keys {
			l.ServiceChanged(k)
		}
	}
}

// newer reports whether an object may replace the one known. Versions of one resource
// are ordered integers (KEP-5504); where a server breaks that, the last one seen counts.
func newer(known, got metav1.Object) bool {
	c, err := resourceversion.CompareResourceVersion(got.GetResourceVersion(), known.GetResourceVersion())
	return err != nil || c > 0
}
