// SPDX-License-Identifier: Apache-2.0

package claims

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/provider/internal/worker"
)

const (
	// workers run independent claims side by side.
	workers = 4

	serviceIndex = "claims/service"
	ownerIndex   = "claims/owner"
)

// ClaimClient is what the controller needs of the API's claims.
type ClaimClient interface {
	Update(ctx context.Context, claim *v1alpha1.IPClaim, opts metav1.UpdateOptions) (*v1alpha1.IPClaim, error)
	Delete(ctx context.Context, name string, opts metav1.DeleteOptions) error
}

// Informers are the caches that the controller reads. The caller starts them after New.
type Informers struct {
	Claims     cache.SharedIndexInformer // IPClaim
	Records    cache.SharedIndexInformer // LoadBalancer
	NodeAgents cache.SharedIndexInformer // NodeAgent
	Nodes      cache.SharedIndexInformer // corev1.Node
	Services   cache.SharedIndexInformer // corev1.Service
}

// Options are the controller's inputs; all are required.
type Options struct {
	Claims ClaimClient
	// GetService and GetRecord read from the API server, not from a cache: before a
	// claim is taken away a cache's word is not enough.
	GetService func(ctx context.Context, namespace, name string) (*corev1.Service, error)
	GetRecord  func(ctx context.Context, namespace, name string) (*v1alpha1.LoadBalancer, error)
	// Classes says which Services are served; others hold addresses of their
	// spec.externalIPs only.
	Classes convert.Classes
	// Recorder emits events on claims.
	Recorder  record.EventRecorder
	Informers Informers
}

// Controller is made with New.
type Controller struct {
	opts   Options
	queue  *worker.Queue[string] // claim names
	synced []cache.InformerSynced

	mu sync.Mutex
	// leavingSince and reported are guarded by mu and hold only claims that exist.
	// leavingSince says, per claim, since when each of its Services has looked as if it
	// no longer needed it.
	leavingSince map[types.UID]map[types.UID]time.Time
	reported     map[types.UID]bool
}

// New checks the options and hooks into the informers. Wiring:
//
//	claims.New(claims.Options{
//		Claims: c.Claims(),
//		GetService: func(ctx context.Context, ns, name string) (*corev1.Service, error) {
//			return kube.CoreV1().Services(ns).Get(ctx, name, metav1.GetOptions{})
//		},
//		GetRecord: func(ctx context.Context, ns, name string) (*v1alpha1.LoadBalancer, error) {
//			return c.LoadBalancers(ns).Get(ctx, name, metav1.GetOptions{})
//		},
//		Classes:   convert.Classes{Class: class, Classless: true},
//		Recorder:  recorder,
//		Informers: claims.Informers{…},
//	})
//
// Call it before the informers start.
func New(opts Options) (*Controller, error) {
	if err := opts.validate(); err != nil {
		return nil, fmt.Errorf("claims controller: %w", err)
	}
	c := &Controller{
		opts:         opts,
		queue:        worker.New[string]("ip-claim"),
		leavingSince: map[types.UID]map[types.UID]time.Time{},
		reported:     map[types.UID]bool{},
	}
	if err := c.hook(); err != nil {
		return nil, fmt.Errorf("claims controller: %w", err)
	}
	return c, nil
}

func (o *Options) validate() error {
	in := o.Informers
	for _, i := range []cache.SharedIndexInformer{in.Claims, in.Records, in.NodeAgents, in.Nodes, in.Services} {
		if i == nil {
			return errors.New("an informer is missing")
		}
	}
	if o.Classes.Class == "" {
		return errors.New("the load balancer class is missing")
	}
	if o.Claims == nil || o.GetService == nil || o.GetRecord == nil || o.Recorder == nil {
		return errors.New("a client or the recorder is missing")
	}
	return nil
}

// Run works until ctx is done. It waits for the caches first.
func (c *Controller) Run(ctx context.Context) error {
	ctx = klog.NewContext(ctx, klog.FromContext(ctx).WithName("ip-claim"))
	c.queue.Run(ctx, workers, c.synced, c.sync)
	return nil
}
