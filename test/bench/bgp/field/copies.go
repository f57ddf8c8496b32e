// SPDX-License-Identifier: Apache-2.0

package field

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
	"github.com/fairlead-lb/fairlead/test/harness/routers"
)

// posters create objects at the same time.
const posters = 16

// copies are claims and records like those that the controller made for the Service "many".
// Making Services would take the API server ten times as long, and an agent sees no
// difference.
type copies struct {
	claim  *v1alpha1.IPClaim
	record *v1alpha1.LoadBalancer
	addrs  []netip.Addr
}

// pattern reads the controller's objects for one Service and ends the controller, which
// would take copies away.
func (f *Field) pattern(ctx context.Context) error {
	c := &copies{addrs: []netip.Addr{First}}
	_, err := harness.Eventually(ctx, patience, func(ctx context.Context) error {
		var err, recordErr error
		c.claim, err = f.API().Claims().Get(ctx, v1alpha1.ClaimName(First), metav1.GetOptions{})
		c.record, recordErr = f.API().LoadBalancers(rig.Namespace).Get(ctx, "many", metav1.GetOptions{})
		if err == nil && recordErr == nil && len(c.record.Spec.Advertisements) == 0 {
			err = errors.New("the record has no advertisement")
		}
		return errors.Join(err, recordErr)
	})
	if err != nil {
		return fmt.Errorf("read the pattern: %w", err)
	}
	f.copies = c
	return f.StopController()
}

// Grow makes addresses until there are n that the advertisement "many" selects. Nobody tells
// them before [Field.Tell].
func (f *Field) Grow(ctx context.Context, n int) error {
	if f.copies == nil {
		if err := f.pattern(ctx); err != nil {
			return err
		}
	}
	c := f.copies
	work := make(chan netip.Addr)
	errs := make([]error, posters)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for a := range work {
				if errs[i] == nil {
					errs[i] = f.create(ctx, a)
				}
			}
		})
	}
	for len(c.addrs) < n {
		a := c.addrs[len(c.addrs)-1].Next()
		c.addrs = append(c.addrs, a)
		work <- a
	}
	close(work)
	wg.Wait()
	return errors.Join(errs...)
}

func copyName(a netip.Addr) string { return "copy-" + v1alpha1.ClaimName(a) }

func (f *Field) create(ctx context.Context, a netip.Addr) error {
	name := copyName(a)
	c := f.copies.claim.DeepCopy()
	c.ObjectMeta = metav1.ObjectMeta{Name: v1alpha1.ClaimName(a), Labels: c.Labels, Finalizers: c.Finalizers}
	c.Spec.Address, c.Spec.Group, c.Status = a.String(), v1alpha1.ClaimName(a), v1alpha1.IPClaimStatus{}
	for i := range c.Spec.Services {
		c.Spec.Services[i].Name, c.Spec.Services[i].UID = name, types.UID(name)
	}
	if _, err := f.API().Claims().Create(ctx, c, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create a claim: %w", err)
	}
	return f.Come(ctx, a)
}

// Come makes the record of one address.
func (f *Field) Come(ctx context.Context, a netip.Addr) error {
	rec := f.copies.record.DeepCopy()
	rec.ObjectMeta = metav1.ObjectMeta{Name: copyName(a), Namespace: rec.Namespace, Labels: rec.Labels}
	rec.Spec.ServiceUID, rec.Status = types.UID(copyName(a)), v1alpha1.LoadBalancerStatus{}
	rec.Spec.Addresses[0].Address, rec.Spec.Addresses[0].Claim = a.String(), v1alpha1.ClaimName(a)
	if _, err := f.API().LoadBalancers(rig.Namespace).Create(ctx, rec, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create a record: %w", err)
	}
	return nil
}

// Go takes the record of one address away.
func (f *Field) Go(ctx context.Context, a netip.Addr) error {
	if err := f.API().LoadBalancers(rig.Namespace).Delete(ctx, copyName(a), metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("delete a record: %w", err)
	}
	return nil
}

// Addresses that were made, besides those of the field's own Services.
func (f *Field) Addresses() []netip.Addr { return f.copies.addrs }

// Tell has all nodes tell the addresses of [Field.Grow], or end to. It returns the instant
// before.
func (f *Field) Tell(ctx context.Context, yes bool) (time.Time, error) {
	value := "null"
	if yes {
		value = `"tell"`
	}
	start := time.Now()
	for _, n := range f.Nodes() {
		_, err := f.Kube().CoreV1().Nodes().Patch(ctx, n.Name(), types.MergePatchType, []byte(`{"metadata":{"labels":{"bench":`+value+`}}}`), metav1.PatchOptions{})
		if err != nil {
			return start, fmt.Errorf("label %s: %w", n.Name(), err)
		}
	}
	return start, nil
}

// Many is how many of these addresses the kernel of a router's place has routes to.
func Many(place routers.Place) (int, error) {
	all, err := routers.Kernel(place)
	if err != nil {
		return 0, err //nolint:wrapcheck // says what it is
	}
	n, within := 0, netip.PrefixFrom(First, 17).Masked()
	for p := range all {
		if within.Contains(p.Addr()) {
			n++
		}
	}
	return n, nil
}
