// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

const (
	// countsDelay is how soon a BGPPeer's status is written again if only its counts, or its
	// words, differ.
	countsDelay = 5 * time.Second
	// gossipDelay is the same if nothing differs but what agents say of their failures.
	gossipDelay = 5 * time.Minute
)

// writtenPeer is our latest write of a BGPPeer's status.
type writtenPeer struct {
	at              time.Time
	uid             types.UID
	resourceVersion string
	status          v1alpha1.BGPPeerStatus
}

// syncPeer corrects a BGPPeer's status.
func (c *Controller) syncPeer(ctx context.Context, name string) (time.Duration, error) {
	peer := client.Get[v1alpha1.BGPPeer](c.opts.Informers.BGP.Peers, name)
	if peer == nil || peer.DeletionTimestamp != nil {
		return 0, nil
	}
	base, last := c.peerBase(peer)
	to := c.sessions.get().to(name)
	want := v1alpha1.BGPPeerStatus{}
	for _, e := range to {
		if e.live || e.up {
			want.Nodes++
		}
		if e.up {
			want.Established++
		}
	}
	a := c.assessPeer(peer, to, want)
	ready, changed := readyCondition(base.Conditions, a, peer.Generation)
	want.Conditions = []metav1.Condition{ready}
	counts := want.Nodes != base.Nodes || want.Established != base.Established
	if !changed && !counts {
		return 0, nil
	}
	delay := time.Duration(0)
	if before := slices.IndexFunc(base.Conditions, func(c metav1.Condition) bool {
		return c.Type == ready.Type && c.Status == ready.Status && c.Reason == ready.Reason && c.ObservedGeneration == ready.ObservedGeneration
	}); before >= 0 {
		delay = gossipDelay
		if counts {
			delay = countsDelay
		}
	}
	if rest := delay - time.Since(last); rest > 0 {
		return rest, nil
	}
	return 0, c.writePeer(ctx, peer, want)
}

// peerBase returns a BGPPeer's status as it is on the server as far as we know, and when
// this process wrote it last.
func (c *Controller) peerBase(peer *v1alpha1.BGPPeer) (v1alpha1.BGPPeerStatus, time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w, ok := c.peers[peer.Name]
	if !ok || w.uid != peer.UID {
		return peer.Status, time.Time{}
	}
	if order, err := resourceversion.CompareResourceVersion(peer.ResourceVersion, w.resourceVersion); err == nil && order < 0 {
		return w.status, w.at
	}
	return peer.Status, w.at
}

func (c *Controller) writePeer(ctx context.Context, peer *v1alpha1.BGPPeer, want v1alpha1.BGPPeerStatus) error {
	doc := document("BGPPeer", peer, "status", map[string]any{
		"nodes": want.Nodes, "established": want.Established, "conditions": want.Conditions,
	})
	stored, err := applyGet(ctx, c.opts.Peers, doc, "status")
	if err != nil {
		return fmt.Errorf("apply status of BGPPeer %s: %w", peer.Name, err)
	}
	if stored == nil {
		return nil // gone
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peers[peer.Name] = writtenPeer{time.Now(), peer.UID, stored.ResourceVersion, want}
	return nil
}

func (c *Controller) forgetPeer(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.peers, name)
}

// assessPeer says whether a peer is in use as it is written, on every node that it selects.
func (c *Controller) assessPeer(peer *v1alpha1.BGPPeer, to []session, counts v1alpha1.BGPPeerStatus) answer {
	if a, faulty := c.faultOf(peer); faulty {
		return a
	}
	switch {
	case counts.Nodes == 0 && !c.selectsAny(peer):
		return answer{false, reason.NoEligibleNode, "its nodeSelectors select no node of the cluster, or none that may announce"}
	case counts.Nodes == 0:
		return answer{false, reason.WaitingForAgent, "no node agent has begun a session yet: agents are starting or of an earlier release, or no node has the source address"}
	case counts.Nodes == counts.Established:
		return answer{true, reason.Valid, fmt.Sprintf("established on %s", share(counts)) + c.remarks(to)}
	}
	var causes []reason.Reason
	var said []string
	for _, e := range to {
		if e.up || !e.live {
			continue
		}
		why := reasonOr(e.why, reason.NotEstablished)
		if !slices.Contains(causes, why) {
			causes = append(causes, why)
			said = append(said, fmt.Sprintf("node %s: %s%s", e.node, why, c.wordsOf(e)))
		}
	}
	why := reason.NotEstablished
	if len(causes) == 1 {
		why = causes[0]
	}
	if len(said) == 0 { // all that is up is of nodes that are lost
		said = append(said, "nodes are being lost")
	}
	return answer{false, why, fmt.Sprintf("established on %s; %s", share(counts), abbreviate(said))}
}

// share says on how many nodes the session is established.
func share(counts v1alpha1.BGPPeerStatus) string {
	noun := "nodes"
	if counts.Nodes == 1 {
		noun = "node"
	}
	return fmt.Sprintf("%d of %d %s", counts.Established, counts.Nodes, noun)
}

// remarks tell what of the configuration is left out of sessions that are up, once each.
func (c *Controller) remarks(to []session) string {
	var said []string
	for _, e := range to {
		if e.up && e.why != "" && !slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, e.why) }) {
			said = append(said, fmt.Sprintf("node %s: %s%s", e.node, e.why, c.wordsOf(e)))
		}
	}
	if len(said) == 0 {
		return ""
	}
	return "; " + abbreviate(said)
}

// wordsOf returns what an agent says of a session that is not up.
func (c *Controller) wordsOf(e session) string {
	agent := client.Get[v1alpha1.NodeAgent](c.opts.Informers.NodeAgents, string(e.node))
	if agent == nil {
		return ""
	}
	i := slices.IndexFunc(agent.Status.BGP, func(s v1alpha1.BGPSessionStatus) bool { return s.Peer == e.peer })
	if i < 0 || agent.Status.BGP[i].Message == "" {
		return ""
	}
	return " (" + strings.TrimSuffix(agent.Status.BGP[i].Message, ".") + ")"
}

// faultOf says what is wrong with a peer whatever the node; false when nothing is.
func (c *Controller) faultOf(peer *v1alpha1.BGPPeer) (answer, bool) {
	if err := nodeSelectors(peer); err != nil {
		return answer{false, reason.InvalidSelector, "not used: " + strings.ReplaceAll(err.Error(), "\n", "; ")}, true
	}
	if peer.Spec.VRF != "" {
		return answer{false, reason.VRFNotSupported, fmt.Sprintf(
			"not used: it asks for VRF %q, and sessions run in the nodes' default routing table only; remove spec.vrf", peer.Spec.VRF)}, true
	}
	if p := peer.Spec.BFDProfile; p != "" && client.Get[v1alpha1.BFDProfile](c.opts.Informers.BGP.Profiles, p) == nil {
		return answer{false, reason.UnknownProfile, fmt.Sprintf("not used: no BFDProfile is named %s; create it, or correct spec.bfdProfile", p)}, true
	}
	return answer{}, false
}

// nodeSelectors fails where they cannot be understood.
func nodeSelectors(peer *v1alpha1.BGPPeer) error {
	_, err := convert.BGPSelectors(&v1alpha1.BGPAdvertisement{Spec: v1alpha1.BGPAdvertisementSpec{NodeSelectors: peer.Spec.NodeSelectors}})
	return err
}

// selectsAny reports whether a peer selects a node that may announce anything.
func (c *Controller) selectsAny(peer *v1alpha1.BGPPeer) bool {
	selectors, err := convert.BGPSelectors(&v1alpha1.BGPAdvertisement{Spec: v1alpha1.BGPAdvertisementSpec{NodeSelectors: peer.Spec.NodeSelectors}})
	return err == nil && slices.ContainsFunc(c.worlds.get().nodes, func(n node) bool {
		return n.barred == "" && selectors.SelectsNode(n.labels)
	})
}
