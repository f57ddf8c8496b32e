// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// warnOfSharedRouters tells a BGPPeer of ours that MetalLB's speakers have sessions with its
// router as well. A router keeps one session per neighbour, by its address (RFC 4271 §6.8):
// two speakers on one node reset each other's, and routes come and go.
func (c *Controller) warnOfSharedRouters(ctx context.Context, k *kind) {
	rival := c.rival()
	var theirs []*unstructured.Unstructured
	if rival != "" {
		theirs = k.source.list()
	}
	for _, obj := range k.target.informer().GetStore().List() {
		peer, ok := obj.(*v1alpha1.BGPPeer)
		if !ok || peer.Labels[v1alpha1.LabelSource] == sourceMetalLB {
			continue
		}
		same := c.sameRouter(peer, theirs)
		if len(same) == 0 {
			delete(c.shared, peer.Name)
			continue
		}
		message := fmt.Sprintf("MetalLB runs (%s in namespace %s) and has sessions with the same router %s (BGPPeer %s): a router keeps one session per neighbour, "+
			"so that the two reset each other's; remove one of the peers, or keep their nodeSelectors apart",
			rival, c.opts.Namespace, peer.Spec.PeerAddress, strings.Join(same, ", "))
		if c.shared[peer.Name] == message {
			continue
		}
		c.shared[peer.Name] = message
		klog.FromContext(ctx).Info("Router has sessions with MetalLB, too", "peer", peer.Name, "reason", reason.MetalLBRunning, "message", message)
		c.opts.Recorder.Event(peer, corev1.EventTypeWarning, reason.MetalLBRunning.String(), message)
	}
}

// sameRouter returns the names of metallb.io peers with a peer's address and port, ascending.
// A router that is found by an interface, or per node, is not compared.
func (c *Controller) sameRouter(peer *v1alpha1.BGPPeer, theirs []*unstructured.Unstructured) []string {
	ours, err := netip.ParseAddr(peer.Spec.PeerAddress)
	if err != nil {
		return nil
	}
	var out []string
	for _, u := range theirs {
		text, _, _ := unstructured.NestedString(u.Object, "spec", "peerAddress")
		port, _, _ := unstructured.NestedInt64(u.Object, "spec", "peerPort")
		addr, err := netip.ParseAddr(text)
		if err == nil && addr == ours && cmp.Or(port, bgpPort) == cmp.Or(int64(peer.Spec.PeerPort), bgpPort) && u.GetNamespace() == c.opts.Namespace {
			out = append(out, u.GetNamespace()+"/"+u.GetName())
		}
	}
	slices.Sort(out)
	return out
}
