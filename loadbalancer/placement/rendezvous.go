// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"crypto/sha256"
	"encoding/binary"
	"iter"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// Score is the rendezvous weight of a node for a group: highest wins. It depends on
// these two names only, so that a node that comes or goes moves no group but its own.
func Score(node loadbalancer.NodeName, group loadbalancer.Group) uint64 {
	b := make([]byte, 0, len(node)+1+len(group))
	b = append(b, node...)
	b = append(b, 0)
	b = append(b, group...)
	sum := sha256.Sum256(b)
	return binary.BigEndian.Uint64(sum[:8])
}

// Rendezvous returns the node with the highest [Score] for the group, "" of no nodes.
// Equal scores go to the lower name.
func Rendezvous(group loadbalancer.Group, nodes iter.Seq[loadbalancer.NodeName]) loadbalancer.NodeName {
	var best loadbalancer.NodeName
	var bestScore uint64
	for n := range nodes {
		s := Score(n, group)
		if best == "" || s > bestScore || (s == bestScore && n < best) {
			best, bestScore = n, s
		}
	}
	return best
}
