// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// ownerWorkers write concurrently: a fail-over of many groups is many small writes.
const ownerWorkers = 4

// Claims reads and patches IPClaims; client.Claims does.
type Claims = patcher[*v1alpha1.IPClaim]

// Want is what a claim's status.owner should be. The zero value leaves it alone.
type Want struct {
	// Owner to write: this node, unless the API holds a higher epoch.
	Owner v1alpha1.Owner
	// Clear removes the owner if it is this node.
	Clear bool
}

// Owners keeps status.owner of claims.
type Owners struct {
	node   string
	claims Claims
	cached func(name string) (*v1alpha1.IPClaim, bool)
	queue  workqueue.TypedRateLimitingInterface[string]

	mu      sync.Mutex
	want    map[string]Want    // guarded by mu, by claim name
	written map[string]written // guarded by mu, by claim name
}

// written is the last write of a claim and the resource version that it replaced: as
// long as the local copy has that version, it shows the time before the write.
type written struct {
	want     Want
	replaced string
}

// NewOwners makes a writer for a node. cached is the local copy of a claim; after a
// conflict the claim is read from the server.
func NewOwners(node string, claims Claims, cached func(name string) (*v1alpha1.IPClaim, bool)) *Owners {
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[string](100*time.Millisecond, 10*time.Second)
	return &Owners{
		node: node, claims: claims, cached: cached,
		want: make(map[string]Want), written: make(map[string]written),
		queue: workqueue.NewTypedRateLimitingQueue(limiter),
	}
}

// Set replaces what all claims' owners should be. Claims that are not named are left
// alone. It does not block.
func (o *Owners) Set(want map[string]Want) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for name, w := range want {
		if same(o.want[name], w) && o.queue.NumRequeues(name) > 0 {
			continue // It failed lately and waits for its turn.
		}
		if c, ok := o.cached(name); ok && o.needsWrite(c, w) && !o.doneLocked(c, w) {
			o.queue.Add(name)
		}
	}
	o.want = maps.Clone(want)
	maps.DeleteFunc(o.written, func(name string, _ written) bool { _, kept := want[name]; return !kept })
}

// doneLocked says whether w is written and the local copy c only lags; o.mu is held.
func (o *Owners) doneLocked(c *v1alpha1.IPClaim, w Want) bool {
	d, ok := o.written[c.Name]
	return ok && d.replaced == c.ResourceVersion && same(d.want, w)
}

// same says whether two wants lead to the same write.
func same(a, b Want) bool { return a.Clear == b.Clear && a.Owner.Epoch == b.Owner.Epoch }

// needsWrite compares a claim with what is wanted.
func (o *Owners) needsWrite(c *v1alpha1.IPClaim, w Want) bool {
	have := c.Status.Owner
	mine := have != nil && have.Node == o.node
	switch {
	case w.Clear:
		return mine
	case w.Owner.Node == "":
		return false
	case have == nil:
		return true
	default:
		return have.Epoch < w.Owner.Epoch || (have.Epoch == w.Owner.Epoch && !mine && w.Owner.Node < have.Node)
	}
}

// Run writes until ctx ends.
func (o *Owners) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for range ownerWorkers {
		wg.Go(func() {
			for o.next(ctx) {
				continue // The condition does the work.
			}
		})
	}
	<-ctx.Done()
	o.queue.ShutDown()
	wg.Wait()
	return nil
}

func (o *Owners) next(ctx context.Context) bool {
	name, shutdown := o.queue.Get()
	if shutdown {
		return false
	}
	defer o.queue.Done(name)
	again, err := o.sync(ctx, name)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		klog.FromContext(ctx).V(2).Info("Cannot write the owner yet", "claim", name, "cause", err.Error())
		o.queue.AddRateLimited(name)
	case again:
		o.queue.AddRateLimited(name)
	default:
		o.queue.Forget(name)
	}
	return true
}

// writeTimeout bounds one request, so that an API server that hangs blocks no worker.
const writeTimeout = 5 * time.Second

// sync writes one claim's owner if need be. The write carries the resource version
// that it was decided on: an agent that was stopped for a while cannot overwrite what
// happened meanwhile. again asks for another look.
func (o *Owners) sync(ctx context.Context, name string) (again bool, err error) {
	c, ok := o.cached(name)
	if !ok {
		return false, nil
	}
	w, ok := o.wanted(name, c)
	if !ok {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	err = o.apply(ctx, c, w)
	if apierrors.IsConflict(err) {
		// The local copy lags, often behind this agent's own last write.
		if c, err = o.claims.Get(ctx, name, metav1.GetOptions{}); err != nil {
			return false, ignoreNotFound(err)
		}
		if w, ok = o.wanted(name, c); !ok {
			return false, nil
		}
		err = o.apply(ctx, c, w)
		if apierrors.IsConflict(err) {
			return true, nil
		}
	}
	if err != nil {
		return false, ignoreNotFound(err)
	}
	klog.FromContext(ctx).V(2).Info("Wrote the owner", "claim", name, "epoch", w.Owner.Epoch, "cleared", w.Clear)
	return false, nil
}

// wanted returns what is still to be written to a claim.
func (o *Owners) wanted(name string, c *v1alpha1.IPClaim) (Want, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	w, ok := o.want[name]
	return w, ok && o.needsWrite(c, w) && !o.doneLocked(c, w)
}

// apply writes w on top of the version of c that it was decided on. An owner is applied
// server-side; it is cleared by a merge patch, because the API server turns a status
// whose last applied field goes into null and then refuses it.
func (o *Owners) apply(ctx context.Context, c *v1alpha1.IPClaim, w Want) error {
	patch := map[string]any{
		"apiVersion": v1alpha1.SchemeGroupVersion().String(),
		"kind":       "IPClaim",
		"metadata":   map[string]any{"name": c.Name, "resourceVersion": c.ResourceVersion},
		"status":     map[string]any{"owner": w.Owner},
	}
	how, options := types.ApplyPatchType, applyOptions()
	if w.Clear {
		patch["status"] = map[string]any{"owner": nil}
		how, options = types.MergePatchType, metav1.PatchOptions{FieldManager: FieldManager}
	}
	data, err := json.Marshal(patch)
	if err != nil {
		return fmt.Errorf("encode owner of %s: %w", c.Name, err)
	}
	if _, err := o.claims.Patch(ctx, c.Name, how, data, options, "status"); err != nil {
		return fmt.Errorf("write owner of %s: %w", c.Name, err)
	}
	o.mu.Lock()
	o.written[c.Name] = written{want: w, replaced: c.ResourceVersion}
	o.mu.Unlock()
	return nil
}

// ClearNow removes this node as owner of the claims named, at once and without the
// queue: for the end of the process. It stops at the first error of the server's
// being away.
func (o *Owners) ClearNow(ctx context.Context, names []string) error {
	var errs []error
	for _, name := range names {
		c, err := o.claims.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err == nil && o.needsWrite(c, Want{Clear: true}) {
			err = o.apply(ctx, c, Want{Clear: true})
		}
		if err == nil || apierrors.IsConflict(err) {
			// A conflict means that the successor has just written itself.
			continue
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
