// SPDX-License-Identifier: Apache-2.0

package gossipkey_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// notReadySince is a node whose kubelet fell silent at a time.
func notReadySince(name string, since time.Time) *corev1.Node {
	n := node(name, corev1.ConditionUnknown)
	n.Status.Conditions[0].LastTransitionTime = metav1.NewTime(since)
	return n
}

// After an outage of the API server no node is ready for a while, although every agent
// goes on with the keys that it has: a rotation that took none of them into account would
// be over before the first has read the new key, and would cut each off from the others.
func TestRotationWhileNoNodeIsReady(t *testing.T) {
	rotating(t, func(c *cluster) {
		c.nodes.put(c.t, notReadySince("a", time.Now()), notReadySince("b", time.Now()))
		c.request("x")
		wait(c.t, 5*time.Minute)
		c.expect("while no node is ready", "12")
		c.read("a", "b")
		wait(c.t, 10*time.Second)
		c.expect("when all agents have read it", "21")
		c.read("a")
		wait(c.t, 10*time.Minute)
		c.expect("when b is not ready for long", "2")
	})
}

// A node may go on without an agent for good, and its NodeAgent stays.
func TestRotationWithoutAnAgentThatLeft(t *testing.T) {
	rotating(t, func(c *cluster) {
		gone := agent("b", "00000000")
		gone.Status.Conditions = []metav1.Condition{{
			Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: reason.Leaving.String(),
		}}
		c.agents.put(c.t, gone)
		c.request("x")
		c.read("a")
		wait(c.t, 10*time.Second)
		c.expect("when the agent that is left has read it", "21")
		gone = gone.DeepCopy()
		gone.Status.Conditions[0].Reason = reason.Restarting.String()
		c.agents.put(c.t, gone)
		c.read("a")
		wait(c.t, time.Minute)
		c.expect("while an agent restarts", "21")
	})
}
