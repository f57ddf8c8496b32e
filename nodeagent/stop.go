// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
)

// stopTimeout is how long an agent that is told to stop waits for the API server to say
// whether it is to come back.
const stopTimeout = 2 * time.Second

// cluster is asked when the agent is told to stop.
type cluster interface {
	// DaemonSet that the agent is part of.
	DaemonSet(ctx context.Context) (*appsv1.DaemonSet, error)
	// Node that the agent runs on.
	Node(ctx context.Context) (*corev1.Node, error)
}

// stopCause says why a stop is a leave or a restart.
type stopCause string

const (
	causeNoGrace      stopCause = "restarts have no grace"
	causeShutdown     stopCause = "the node is shutting down"
	causeNodeGone     stopCause = "the Node is gone or being deleted"
	causeDenied       stopCause = "the agent has no permission any longer"
	causeUninstalled  stopCause = "the DaemonSet is gone or being deleted"
	causeNotSelected  stopCause = "the DaemonSet does not select this node any longer"
	causeNoAddresses  stopCause = "the kernel cannot keep the addresses"
	causeStillWanted  stopCause = "the DaemonSet selects this node"
	causeNoAPIAnswers stopCause = "the API server does not answer"
)

// stopFacts are what an agent that is told to stop knows.
type stopFacts struct {
	// grace is 0 where every stop is to be a leave.
	grace time.Duration
	// closing says that the agent's local copies show that the node shuts down.
	closing bool

	daemonSet    *appsv1.DaemonSet
	daemonSetErr error
	node         *corev1.Node
	nodeErr      error
}

// decideStop tells leaving from restarting. An agent that comes back in a moment keeps its
// addresses; one that does not has to hand them over. When in doubt it is a restart: if
// the agent does not come back, its kernel falls silent when its peers take over.
func decideStop(f stopFacts) (leave bool, cause stopCause) {
	switch {
	case f.grace <= 0:
		return true, causeNoGrace
	case f.closing || f.nodeErr == nil && f.node != nil && convert.Node(f.node).ShuttingDown:
		return true, causeShutdown
	case apierrors.IsNotFound(f.nodeErr) || f.nodeErr == nil && f.node != nil && f.node.DeletionTimestamp != nil:
		return true, causeNodeGone
	case denied(f.daemonSetErr) || denied(f.nodeErr):
		return true, causeDenied
	case apierrors.IsNotFound(f.daemonSetErr) || f.daemonSetErr == nil && f.daemonSet != nil && f.daemonSet.DeletionTimestamp != nil:
		return true, causeUninstalled
	case f.daemonSetErr != nil || f.daemonSet == nil:
		return false, causeNoAPIAnswers
	case f.nodeErr == nil && f.node != nil && !selects(f.daemonSet, f.node):
		return true, causeNotSelected
	default:
		return false, causeStillWanted
	}
}

// denied says that the server knows the agent's account no longer, or gives it nothing:
// so it looks from inside when everything is uninstalled.
func denied(err error) bool { return apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) }

// selects says whether a DaemonSet wants a pod on a node, by its node selector and
// required affinity. Taints are not looked at: what they evict comes back or was meant.
func selects(ds *appsv1.DaemonSet, node *corev1.Node) bool {
	pod := &corev1.Pod{Spec: ds.Spec.Template.Spec}
	match, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node)
	return err != nil || match
}

// ask asks the API server for what decideStop needs, both at once.
func ask(ctx context.Context, c cluster, f stopFacts) stopFacts {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { f.daemonSet, f.daemonSetErr = c.DaemonSet(ctx) })
	wg.Go(func() { f.node, f.nodeErr = c.Node(ctx) })
	wg.Wait()
	return f
}
