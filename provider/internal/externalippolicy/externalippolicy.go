// SPDX-License-Identifier: Apache-2.0

// Package externalippolicy sees to it that the ExternalIPPolicy "default" exists.
//
// The admission policy fairlead-external-ips denies what no grant allows, but denies
// nothing while the object with the grants is absent: an API server asked to deny then
// would refuse every write of every Service (docs/adr/0012). So this package makes the
// object, without grants, whenever there is none. It owns nothing of it afterwards:
// grants are the administrator's, and an object that exists is never written.
//
// The provider constructs one [Controller] per process; the leader runs it.
package externalippolicy

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/provider/internal/worker"
)

// Policies creates ExternalIPPolicies.
type Policies interface {
	Create(ctx context.Context, p *v1alpha1.ExternalIPPolicy, opts metav1.CreateOptions) (*v1alpha1.ExternalIPPolicy, error)
}

// Options are the controller's inputs, all required.
type Options struct {
	Policies Policies
	// Informer over ExternalIPPolicies; somebody else starts it.
	Informer cache.SharedIndexInformer
}

// Controller is made with New.
type Controller struct {
	opts  Options
	queue *worker.Queue[string]
}

// New checks the options and adds a handler to the informer:
//
//	externalippolicy.New(externalippolicy.Options{Policies: fl.ExternalIPPolicies(), Informer: policies})
func New(opts Options) (*Controller, error) {
	if opts.Policies == nil || opts.Informer == nil {
		return nil, errors.New("external IP policy controller: client or informer is missing")
	}
	c := &Controller{opts: opts, queue: worker.New[string]("external-ip-policy")}
	gone := func(any) { c.queue.Add(v1alpha1.ExternalIPPolicyName) }
	if _, err := opts.Informer.AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: gone}); err != nil {
		return nil, fmt.Errorf("external IP policy controller: add event handler: %w", err)
	}
	return c, nil
}

// Run works until ctx is done.
func (c *Controller) Run(ctx context.Context) error {
	ctx = klog.NewContext(ctx, klog.FromContext(ctx).WithName("external-ip-policy"))
	c.queue.Add(v1alpha1.ExternalIPPolicyName) // no event tells that it is missing
	c.queue.Run(ctx, 1, []cache.InformerSynced{c.opts.Informer.HasSynced}, c.sync)
	return nil
}

func (c *Controller) sync(ctx context.Context, name string) (time.Duration, error) {
	_, found, err := c.opts.Informer.GetStore().GetByKey(name)
	if err != nil {
		return 0, fmt.Errorf("look up ExternalIPPolicy: %w", err)
	}
	if found {
		return 0, nil
	}
	p := &v1alpha1.ExternalIPPolicy{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{"app.kubernetes.io/part-of": "fairlead"},
	}}
	_, err = c.opts.Policies.Create(ctx, p, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return 0, nil // the administrator's is what counts: its event is under way
	}
	if err != nil {
		return 0, fmt.Errorf("create ExternalIPPolicy %s: %w", name, err)
	}
	klog.FromContext(ctx).Info("Created ExternalIPPolicy without grants: no new external IPs", "externalIPPolicy", klog.KObj(p))
	return 0, nil
}
