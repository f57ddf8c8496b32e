// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

// measurePlacement counts addresses per node, then adds a node and removes another.
func measurePlacement(ctx context.Context, c *Config, r *rig.Rig) (*Placement, error) {
	if err := r.CreateServices(ctx, rig.ServiceOptions{To: placed}); err != nil {
		return nil, err
	}
	addrs, err := waitAddresses(ctx, r, placed)
	if err != nil {
		return nil, err
	}
	first, err := waitOwners(ctx, r, addrs)
	if err != nil {
		return nil, err
	}
	p := &Placement{VIPs: map[string]int{}}
	least, most := placed, 0
	for _, n := range first {
		p.VIPs[n]++
	}
	for _, n := range r.Nodes() {
		least, most = min(least, p.VIPs[n.Name()]), max(most, p.VIPs[n.Name()])
	}
	p.Ratio = round(float64(most) / float64(max(1, least)))
	if _, err := r.AddNode(ctx); err != nil {
		return p, err
	}
	if err := r.WaitSettled(ctx); err != nil {
		return p, err
	}
	if err := harness.Pause(ctx, moveTime); err != nil {
		return p, err
	}
	second, err := waitOwners(ctx, r, addrs)
	if err != nil {
		return p, err
	}
	p.MovedByNewNode = moved(first, second, "")
	if err := p.remove(ctx, r, addrs, second); err != nil {
		return p, err
	}
	c.say("%d services on 3 nodes: %v, ratio %.2f; a 4th node moved %d; %d were on the node removed, %d others moved, %d unanswered, longest silence %.0f ms",
		placed, p.VIPs, p.Ratio, p.MovedByNewNode, p.Removed, p.MovedOthers, p.Unanswered, p.LongestGapMs)
	return p, nil
}

// remove drains the second node away while every address is asked for ten times a second.
func (p *Placement) remove(ctx context.Context, r *rig.Rig, addrs []netip.Addr, before map[netip.Addr]string) error {
	gone := r.Nodes()[1]
	for _, n := range before {
		if n == gone.Name() {
			p.Removed++
		}
	}
	watch := r.Client().Watch(ctx, addrs, 100*time.Millisecond)
	err := r.RemoveNode(ctx, gone)
	if err == nil {
		err = harness.Pause(ctx, moveTime)
	}
	seen, werr := watch.Stop()
	if err != nil || werr != nil {
		return fmt.Errorf("remove a node: %w", errors.Join(err, werr))
	}
	for _, s := range seen {
		p.LongestGapMs = max(p.LongestGapMs, ms(s.LongestGap))
	}
	now, err := r.Client().Scan(ctx, addrs)
	if err != nil {
		return err
	}
	after := map[netip.Addr]string{}
	for _, a := range addrs {
		if len(now[a]) != 1 {
			p.Unanswered++
			continue
		}
		after[a] = r.ByMAC(now[a][0])
	}
	p.MovedOthers = moved(before, after, gone.Name())
	return nil
}

// moved counts addresses with another owner than before, except those of one node.
func moved(before, after map[netip.Addr]string, except string) int {
	n := 0
	for a, owner := range after {
		if before[a] != owner && before[a] != except {
			n++
		}
	}
	return n
}

// waitOwners waits until each address is answered by one node and returns which.
func waitOwners(ctx context.Context, r *rig.Rig, addrs []netip.Addr) (map[netip.Addr]string, error) {
	owners := make(map[netip.Addr]string, len(addrs))
	_, err := harness.Eventually(ctx, 2*time.Minute, func(ctx context.Context) error {
		seen, err := r.Client().Scan(ctx, addrs)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if len(seen[a]) != 1 {
				return fmt.Errorf("%s is answered by %v", a, seen[a])
			}
			owners[a] = r.ByMAC(seen[a][0])
		}
		return nil
	})
	return owners, err
}
