// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// syncAdvertisement corrects an L2Advertisement's Ready condition.
func (c *Controller) syncAdvertisement(ctx context.Context, name string) error {
	ad := client.Get[v1alpha1.L2Advertisement](c.opts.Informers.Advertisements, name)
	if ad == nil || ad.DeletionTimestamp != nil {
		return nil
	}
	a := assessAdvertisement(ad, func(pool string) bool {
		return client.Get[v1alpha1.IPAddressPool](c.opts.Informers.Pools, pool) != nil
	})
	ready, changed := readyCondition(ad.Status.Conditions, a, ad.Generation)
	if !changed {
		return nil
	}
	doc := document("L2Advertisement", ad, "status", map[string]any{"conditions": []metav1.Condition{ready}})
	if err := apply(ctx, c.opts.Advertisements, doc, "status"); err != nil {
		return fmt.Errorf("apply status of L2Advertisement %s: %w", name, err)
	}
	return nil
}

// readyCondition is the condition Ready of an answer, and whether it differs from what is.
func readyCondition(now []metav1.Condition, a answer, generation int64) (metav1.Condition, bool) {
	status := metav1.ConditionFalse
	if a.ok {
		status = metav1.ConditionTrue
	}
	want := slices.Clone(now)
	meta.SetStatusCondition(&want, metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: status, Reason: a.reason.String(), Message: a.message,
		ObservedGeneration: generation, LastTransitionTime: metav1.NewTime(time.Now().Truncate(time.Second)),
	})
	return *meta.FindStatusCondition(want, v1alpha1.ConditionReady), !equality.Semantic.DeepEqual(want, now)
}

// Assess says why an advertisement is not in use as written, and in words; Valid when it is.
func Assess(ad *v1alpha1.L2Advertisement, poolExists func(string) bool) (why reason.Reason, message string) {
	a := assessAdvertisement(ad, poolExists)
	return a.reason, a.message
}

// assessAdvertisement says whether an advertisement is in use as written.
func assessAdvertisement(ad *v1alpha1.L2Advertisement, poolExists func(string) bool) answer {
	if _, err := convert.L2Advertisement(ad); err != nil {
		return answer{false, reason.InvalidSelector, "not used: " + strings.ReplaceAll(err.Error(), "\n", "; ")}
	}
	var unknown []string
	for _, p := range ad.Spec.IPAddressPools {
		if !poolExists(p) {
			unknown = append(unknown, p)
		}
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		return answer{false, reason.UnknownPool, fmt.Sprintf(
			"no IPAddressPool is named %s; whatever else it selects is announced", strings.Join(unknown, ", "))}
	}
	return answer{true, reason.Valid, "in use"}
}
