// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

// The first copied addresses; those below them are the controller's.
//
//nolint:gochecknoglobals // constants of a type that Go has no constants of
var (
	firstFour = netip.MustParseAddr("10.30.65.0")
	firstSix  = netip.MustParseAddr("fd00:30::1:100")
)

// vips are addresses of Services that do not exist: claims and records like those that the
// controller made for one Service. Making Services would take the API server ten times as
// long, and an agent sees no difference.
type vips struct {
	r      *rig.Rig
	four   []netip.Addr
	six    []netip.Addr
	claim4 *v1alpha1.IPClaim
	claim6 *v1alpha1.IPClaim
	record *v1alpha1.LoadBalancer
	next4  netip.Addr
	next6  netip.Addr
}

// newVIPs has a Service made, takes its objects as the pattern and ends the controller,
// which would take copies away.
func newVIPs(ctx context.Context, r *rig.Rig) (*vips, error) {
	v := &vips{r: r, next4: firstFour, next6: firstSix}
	if err := r.CreateServices(ctx, rig.ServiceOptions{To: 1, DualStack: true}); err != nil {
		return nil, err
	}
	_, err := harness.Eventually(ctx, time.Minute, func(ctx context.Context) error {
		by, err := r.Addresses(ctx)
		if err != nil {
			return err
		}
		v.four, v.six = nil, nil
		for _, a := range by[rig.ServiceName(0)] {
			if a.Is4() {
				v.four = append(v.four, a)
			} else {
				v.six = append(v.six, a)
			}
		}
		if len(v.four) != 1 || len(v.six) != 1 {
			return fmt.Errorf("addresses %v %v, want one of each family", v.four, v.six)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if _, err := waitOwners(ctx, r, slices.Concat(v.four, v.six)); err != nil {
		return nil, err
	}
	claims := r.API().Claims()
	var err4, err6, errRecord error
	v.claim4, err4 = claims.Get(ctx, v1alpha1.ClaimName(v.four[0]), metav1.GetOptions{})
	v.claim6, err6 = claims.Get(ctx, v1alpha1.ClaimName(v.six[0]), metav1.GetOptions{})
	v.record, errRecord = r.API().LoadBalancers(rig.Namespace).Get(ctx, rig.ServiceName(0), metav1.GetOptions{})
	if err := errors.Join(err4, err6, errRecord); err != nil {
		return nil, fmt.Errorf("read the pattern: %w", err)
	}
	return v, r.StopController()
}

// grow makes more until there are n of each family, and waits until all are answered and
// their owners written.
func (v *vips) grow(ctx context.Context, n int) error {
	var wg sync.WaitGroup
	work := make(chan [2]netip.Addr)
	errs := make([]error, 16)
	for i := range errs {
		wg.Go(func() {
			for pair := range work {
				if errs[i] == nil {
					errs[i] = v.create(ctx, pair[0], pair[1])
				}
			}
		})
	}
	for len(v.four) < n {
		work <- [2]netip.Addr{v.next4, v.next6}
		v.four, v.six = append(v.four, v.next4), append(v.six, v.next6)
		v.next4, v.next6 = v.next4.Next(), v.next6.Next()
	}
	close(work)
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	_, err := harness.Eventually(ctx, rolloutTimeout, func(ctx context.Context) error {
		owners, err := v.r.Owners(ctx)
		if err == nil && len(owners) < 2*n {
			err = fmt.Errorf("%d of %d addresses have an owner", len(owners), 2*n)
		}
		return err
	})
	if err != nil {
		return err
	}
	if _, err := waitOwners(ctx, v.r, slices.Concat(v.four, v.six)); err != nil {
		return err
	}
	return v.r.Client().WaitQuiet(ctx, quiet)
}

// create copies the pattern to another pair of addresses.
func (v *vips) create(ctx context.Context, four, six netip.Addr) error {
	name := "copy-" + v1alpha1.ClaimName(six)
	uid := types.UID(name)
	group := min(v1alpha1.ClaimName(four), v1alpha1.ClaimName(six))
	for _, x := range []struct {
		pattern *v1alpha1.IPClaim
		addr    netip.Addr
	}{{v.claim4, four}, {v.claim6, six}} {
		c := x.pattern.DeepCopy()
		c.ObjectMeta = metav1.ObjectMeta{Name: v1alpha1.ClaimName(x.addr), Labels: c.Labels, Finalizers: c.Finalizers}
		c.Spec.Address, c.Spec.Group, c.Status = x.addr.String(), group, v1alpha1.IPClaimStatus{}
		for i := range c.Spec.Services {
			c.Spec.Services[i].Name, c.Spec.Services[i].UID = name, uid
		}
		if _, err := v.r.API().Claims().Create(ctx, c, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create a claim: %w", err)
		}
	}
	rec := v.record.DeepCopy()
	rec.ObjectMeta = metav1.ObjectMeta{Name: name, Namespace: rec.Namespace, Labels: rec.Labels}
	rec.Spec.ServiceUID, rec.Status = uid, v1alpha1.LoadBalancerStatus{}
	for i, a := range []netip.Addr{four, six} {
		rec.Spec.Addresses[i].Address, rec.Spec.Addresses[i].Claim = a.String(), v1alpha1.ClaimName(a)
	}
	if _, err := v.r.API().LoadBalancers(rig.Namespace).Create(ctx, rec, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create a record: %w", err)
	}
	return nil
}
