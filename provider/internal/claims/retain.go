// SPDX-License-Identifier: Apache-2.0

package claims

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// maxNap bounds the time between two looks at a deadline. Timers run on the machine's
// monotonic clock, deadlines are wall-clock time: a clock that is set, or a machine that
// is suspended, makes the two differ.
const maxNap = 10 * time.Minute

// retain waits for the deadline of an address that is kept for a namesake of its last
// Service, then starts its release. A claim made by hand may have no deadline: it gets one.
func (c *Controller) retain(ctx context.Context, claim *v1alpha1.IPClaim) (time.Duration, error) {
	if claim.Spec.RetainUntil == nil {
		return 0, c.write(ctx, retained(claim), "Set the deadline of a retained address")
	}
	wait := time.Until(claim.Spec.RetainUntil.Time)
	if wait > 0 {
		return min(wait, maxNap), nil
	}
	return 0, c.write(ctx, releasing(claim), "Releasing address at the end of its retention")
}

// left returns a copy for when its last Service has gone: retained where that was asked
// for, else on its way to be free.
func left(claim *v1alpha1.IPClaim) *v1alpha1.IPClaim {
	if claim.Spec.RetainFor != nil && claim.Spec.RetainFor.Duration > 0 {
		return retained(claim)
	}
	return releasing(claim)
}

// retained returns a copy that is kept for namesakes of its last holders.
func retained(claim *v1alpha1.IPClaim) *v1alpha1.IPClaim {
	out := claim.DeepCopy()
	out.Spec.Phase = v1alpha1.ClaimRetained
	out.Spec.ReleasingSince = nil
	keep := v1alpha1.DefaultRetainFor
	if claim.Spec.RetainFor != nil && claim.Spec.RetainFor.Duration > 0 {
		keep = claim.Spec.RetainFor.Duration
	}
	until := metav1.NewTime(time.Now().Add(keep))
	out.Spec.RetainUntil = &until
	return out
}

// releasing returns a copy that keeps its last holders but is held by nobody.
func releasing(claim *v1alpha1.IPClaim) *v1alpha1.IPClaim {
	out := claim.DeepCopy()
	out.Spec.Phase = v1alpha1.ClaimReleasing
	out.Spec.RetainUntil = nil
	now := metav1.Now()
	out.Spec.ReleasingSince = &now
	return out
}
