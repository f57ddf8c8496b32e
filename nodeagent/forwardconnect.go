// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/klog/v2"
	"sigs.k8s.io/knftables"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/guard"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/surroundings"
	viplink "github.com/fairlead-lb/fairlead/nodeagent/internal/vip"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/virtualserver"
)

// connectPlane connects the forwarder to this node's kernel.
func connectPlane(k *kernel.Kernel) planeDeps {
	looker := surroundings.New(k.LinkNames)
	return planeDeps{
		open: func(context.Context) (*plane, error) {
			table, err := kernel.OpenIPVS()
			if err != nil {
				return nil, err //nolint:wrapcheck // its kind decides
			}
			nft, err := guard.Open()
			if err != nil {
				table.Close()
				return nil, err //nolint:wrapcheck // says what failed
			}
			p := newPlane(table, k, k, nft)
			p.generation, p.forget, p.close = k.NFTGeneration, k.ForgetHalfOpen, table.Close
			return p, nil
		},
		left: func(ctx context.Context) (bool, error) {
			if _, there, err := k.VIPLink(); err != nil || there {
				return there, err //nolint:wrapcheck // says what failed
			}
			nft, err := guard.Open()
			if err != nil {
				// Without the program or the kernel's part there is no table either.
				klog.FromContext(ctx).V(2).Info("Cannot look for an earlier run's table", "cause", err.Error())
				return false, nil
			}
			return guard.New(nft).Present(ctx)
		},
		look:  steady(looker.Look),
		read:  readTable,
		watch: k.WatchNFT,
	}
}

// lookTimeout bounds a look around.
const lookTimeout = 5 * time.Second

// steady looks around, and stands by what spoke against forwarding while that cannot be seen.
func steady(look func(ctx context.Context) (surroundings.Report, error)) func(ctx context.Context) surroundings.Report {
	var last surroundings.Report
	return func(ctx context.Context) surroundings.Report {
		bounded, cancel := context.WithTimeout(ctx, lookTimeout)
		defer cancel()
		r, err := look(bounded)
		if err != nil {
			klog.FromContext(ctx).V(2).Info("Cannot see all that works on this node's packets", "cause", err.Error())
			if r.Against == "" {
				r.Against, r.Message = last.Against, last.Message
			}
		}
		last = r
		return r
	}
}

// readTable reads what IPVS has through a connection of its own, so that nobody waits.
func readTable() ([]kernel.ServerState, int, error) {
	table, err := kernel.OpenIPVS()
	if err != nil {
		return nil, 0, err //nolint:wrapcheck // says what failed
	}
	defer table.Close()
	buckets, err := table.ConnTableSize()
	if err != nil {
		return nil, 0, err //nolint:wrapcheck // says what failed
	}
	list, err := table.List()
	return list, buckets, err //nolint:wrapcheck // says what failed
}

// newPlane puts the data plane together.
func newPlane(table virtualserver.Table, settings virtualserver.Settings, link viplink.Link, nft knftables.Interface) *plane {
	g, v := guard.New(nft), viplink.New(link)
	var served []loadbalancer.VirtualServerKey
	var found *earlier
	// Once: what this run is about to serve on a node's address may be another program's now.
	adopt := func(ctx context.Context) (earlier, error) {
		if found != nil {
			return *found, nil
		}
		keys, err := g.Owned(ctx)
		if err != nil {
			return earlier{}, fmt.Errorf("read what is guarded: %w", err)
		}
		vips, err := v.List()
		if err != nil {
			return earlier{}, fmt.Errorf("list the addresses of an earlier run: %w", err)
		}
		list, err := table.List()
		if err != nil {
			return earlier{}, fmt.Errorf("list virtual servers: %w", err)
		}
		served, found = keys, &earlier{vips, make(map[loadbalancer.VirtualServerKey]struct{}, len(keys))}
		for i := range list {
			if _, ours := slices.BinarySearchFunc(keys, list[i].VirtualServerKey, compareServerKeys); ours && len(list[i].Reals) > 0 {
				found.served[list[i].VirtualServerKey] = struct{}{}
			}
		}
		return *found, nil
	}
	owned := func(context.Context) (virtualserver.Owned, error) {
		addrs, err := v.List()
		return virtualserver.Owned{Addrs: addrs, Keys: served}, err //nolint:wrapcheck // says what failed
	}
	return &plane{servers: virtualserver.New(table, settings, owned), vips: v, guard: g, adopt: adopt}
}
