// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"reflect"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/intake"
)

// Objects are what the agent's copies show, with what changed since they were asked for last.
func (n *simNode) Objects(context.Context) intake.Objects {
	now := n.copies()
	n.mu.Lock()
	defer n.mu.Unlock()
	now.Changed = changesOf(n.shown, now)
	n.shown = now
	return now
}

// changesOf says what the intake would.
func changesOf(before, now intake.Objects) *loadbalancer.Changes {
	out := new(loadbalancer.Changes)
	claims := make(map[loadbalancer.Group]*loadbalancer.Claim, len(before.Claims))
	for i := range before.Claims {
		claims[before.Claims[i].Name] = &before.Claims[i]
	}
	for i := range now.Claims {
		c := &now.Claims[i]
		if old := claims[c.Name]; old == nil || !reflect.DeepEqual(old, c) {
			out.Claim(c.Name, loadbalancer.ClaimChange{Before: old, Now: c})
		}
		delete(claims, c.Name)
	}
	for name, c := range claims {
		out.Claim(name, loadbalancer.ClaimChange{Before: c})
	}
	for uid, r := range before.Records {
		if _, still := now.Records[uid]; !still || !reflect.DeepEqual(before.Endpoints[r.Service], now.Endpoints[r.Service]) {
			out.Record(uid)
		}
	}
	for uid, r := range now.Records {
		if old, known := before.Records[uid]; !known || !reflect.DeepEqual(old, r) || !reflect.DeepEqual(before.Endpoints[r.Service], now.Endpoints[r.Service]) {
			out.Record(uid)
		}
	}
	return out
}
