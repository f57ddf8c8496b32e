// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func daemonSet(change func(*appsv1.DaemonSet)) *appsv1.DaemonSet {
	ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "fairlead-node-agent"}}
	ds.Spec.Template.Spec.NodeSelector = map[string]string{"kubernetes.io/os": "linux"}
	if change != nil {
		change(ds)
	}
	return ds
}

func clusterNode(change func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"kubernetes.io/os": "linux"}}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	if change != nil {
		change(n)
	}
	return n
}

func TestDecideStop(t *testing.T) {
	t.Parallel()
	deleted := &metav1.Time{Time: time.Unix(1, 0)}
	resource := schema.GroupResource{Group: "apps", Resource: "daemonsets"}
	gone := apierrors.NewNotFound(resource, "x")
	forbidden, unauthorized := apierrors.NewForbidden(resource, "x", nil), apierrors.NewUnauthorized("who are you")
	closing := func(n *corev1.Node) {
		n.Status.Conditions[0].Status, n.Status.Conditions[0].Message = corev1.ConditionFalse, "node is shutting down"
	}
	elsewhere := func(ds *appsv1.DaemonSet) { ds.Spec.Template.Spec.NodeSelector["edge"] = "yes" }
	pinned := func(ds *appsv1.DaemonSet) {
		ds.Spec.Template.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpNotIn, Values: []string{"n"}}},
			}}},
		}}
	}
	tests := map[string]struct {
		change func(f *stopFacts)
		leave  bool
		cause  stopCause
	}{
		"rolling update":  {func(*stopFacts) {}, false, causeStillWanted},
		"no grace":        {func(f *stopFacts) { f.grace = 0 }, true, causeNoGrace},
		"API server away": {func(f *stopFacts) { f.daemonSetErr, f.nodeErr = context.DeadlineExceeded, context.DeadlineExceeded }, false, causeNoAPIAnswers},
		"API server out of its mind": {func(f *stopFacts) {
			f.daemonSetErr, f.nodeErr = apierrors.NewInternalError(context.Canceled), apierrors.NewInternalError(context.Canceled)
		}, false, causeNoAPIAnswers},
		"half an answer":               {func(f *stopFacts) { f.nodeErr = context.DeadlineExceeded }, false, causeStillWanted},
		"the other half":               {func(f *stopFacts) { f.daemonSetErr = context.DeadlineExceeded }, false, causeNoAPIAnswers},
		"DaemonSet gone":               {func(f *stopFacts) { f.daemonSetErr = gone }, true, causeUninstalled},
		"DaemonSet gone, node unknown": {func(f *stopFacts) { f.daemonSetErr, f.nodeErr = gone, context.DeadlineExceeded }, true, causeUninstalled},
		"DaemonSet being deleted":      {func(f *stopFacts) { f.daemonSet.DeletionTimestamp = deleted }, true, causeUninstalled},
		"DaemonSet elsewhere":          {func(f *stopFacts) { elsewhere(f.daemonSet) }, true, causeNotSelected},
		"DaemonSet not for this node":  {func(f *stopFacts) { pinned(f.daemonSet) }, true, causeNotSelected},
		"node lost its label":          {func(f *stopFacts) { f.node.Labels = nil }, true, causeNotSelected},
		"role gone":                    {func(f *stopFacts) { f.daemonSetErr = forbidden }, true, causeDenied},
		"account gone":                 {func(f *stopFacts) { f.daemonSetErr, f.nodeErr = unauthorized, unauthorized }, true, causeDenied},
		"node gone":                    {func(f *stopFacts) { f.nodeErr = gone }, true, causeNodeGone},
		"node gone, DaemonSet unknown": {func(f *stopFacts) { f.nodeErr, f.daemonSetErr = gone, context.DeadlineExceeded }, true, causeNodeGone},
		"node being deleted":           {func(f *stopFacts) { f.node.DeletionTimestamp = deleted }, true, causeNodeGone},
		"node shutting down":           {func(f *stopFacts) { closing(f.node) }, true, causeShutdown},
		"node shutting down, API away": {func(f *stopFacts) {
			f.closing, f.daemonSetErr, f.nodeErr = true, context.DeadlineExceeded, context.DeadlineExceeded
		}, true, causeShutdown},
		"node not ready for another reason": {func(f *stopFacts) { f.node.Status.Conditions[0].Status = corev1.ConditionFalse }, false, causeStillWanted},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := stopFacts{grace: 30 * time.Second, daemonSet: daemonSet(nil), node: clusterNode(nil)}
			tt.change(&f)
			if leave, cause := decideStop(f); leave != tt.leave || cause != tt.cause {
				t.Errorf("leave %t (%s), want %t (%s)", leave, cause, tt.leave, tt.cause)
			}
		})
	}
}
