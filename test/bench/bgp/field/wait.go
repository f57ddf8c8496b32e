// SPDX-License-Identifier: Apache-2.0

package field

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
	"github.com/fairlead-lb/fairlead/test/harness/routers"
)

// Until calls check every interval until it returns nil, and returns when that was.
func Until(ctx context.Context, interval, timeout time.Duration, check func() error) (time.Time, error) {
	start := time.Now()
	for {
		err := check()
		if err == nil {
			return time.Now(), nil
		}
		if time.Since(start) > timeout {
			return time.Now(), fmt.Errorf("still not after %s: %w", timeout, err)
		}
		if perr := harness.Pause(ctx, interval); perr != nil {
			return time.Now(), errors.Join(perr, err)
		}
	}
}

// Settled waits until both routers have all sessions and all nodes as next hops.
func (f *Field) Settled(ctx context.Context) error {
	_, err := harness.Eventually(ctx, patience, func(ctx context.Context) error {
		var addrs []netip.Addr
		for _, n := range f.Nodes() {
			addrs = append(addrs, n.IPv4())
		}
		return errors.Join(routers.WantEstablished(ctx, f.FRR, addrs...), routers.WantEstablished(ctx, f.BIRD, addrs...))
	})
	if err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	_, err = f.WaitHops(ctx, patience, f.Nodes()...)
	return err
}

// Hops fails unless FRR's kernel has exactly these nodes as next hops of the Services that
// all nodes tell.
func (f *Field) Hops(nodes ...*rig.Node) error {
	all, err := routers.Kernel(f.FRRHost)
	if err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	for _, p := range []netip.Prefix{OnNodes, OnPod} {
		if err := exactly(all[p], nodes); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	return nil
}

// Hop fails unless FRR's kernel has a node among its next hops, or not, whatever becomes of
// the others.
func (f *Field) Hop(n *rig.Node, want bool) error {
	all, err := routers.Kernel(f.FRRHost)
	if err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	has := slices.ContainsFunc(all[OnNodes], func(h routers.NextHop) bool { return h.Via == n.IPv4() })
	if has != want {
		return fmt.Errorf("FRR's kernel has %v; %s among them: %v, want %v", all[OnNodes], n.IPv4(), has, want)
	}
	return nil
}

func exactly(hops []routers.NextHop, nodes []*rig.Node) error {
	found := 0
	for _, n := range nodes {
		for _, h := range hops {
			if h.Via == n.IPv4() {
				found++
			}
		}
	}
	if found != len(nodes) || len(hops) != len(nodes) {
		return fmt.Errorf("FRR's kernel has %v, want %d nodes", hops, len(nodes))
	}
	return nil
}

// WaitHops waits until [Field.Hops] holds and returns when that was.
func (f *Field) WaitHops(ctx context.Context, timeout time.Duration, nodes ...*rig.Node) (time.Time, error) {
	return Until(ctx, 5*time.Millisecond, timeout, func() error { return f.Hops(nodes...) })
}

// Whole waits until FRR has every session, with BFD up if it was told to watch by BFD, and
// every node as next hop: a session that is not strict tells its routes before.
func (f *Field) Whole(ctx context.Context) error {
	_, err := harness.Eventually(ctx, patience, func(ctx context.Context) error {
		all, err := f.FRR.Sessions(ctx)
		if err != nil {
			return err //nolint:wrapcheck // says what it is
		}
		for i := range all {
			if !all[i].Established || f.watch.Profile != "" && all[i].BFD != "Up" {
				return fmt.Errorf("FRR says %+v", all[i])
			}
		}
		return f.Hops(f.Nodes()...)
	})
	return err //nolint:wrapcheck // says what it is
}

// watched waits until both ends of all sessions with FRR are up, BFD too if there is one.
func (f *Field) watched(ctx context.Context, w BFD, hold time.Duration) error {
	want := ""
	if w.Profile != "" {
		want = "Up"
	}
	_, err := harness.Eventually(ctx, patience, func(ctx context.Context) error {
		if hold != Hold {
			if err := f.holds(ctx, hold); err != nil {
				return err
			}
		}
		for _, n := range f.Nodes() {
			if err := f.upAt(ctx, n, want); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	return f.Settled(ctx)
}

// upAt fails unless the session of a node and FRR is up at both ends.
func (f *Field) upAt(ctx context.Context, n *rig.Node, bfd string) error {
	s, err := routers.SessionOf(ctx, f.FRR, n.IPv4())
	if err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	a, err := f.API().NodeAgents().Get(ctx, n.Name(), metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("ask about %s: %w", n.Name(), err)
	}
	for i := range a.Status.BGP {
		own := &a.Status.BGP[i]
		if own.Peer != FRRPeer {
			continue
		}
		if s.Established && own.State == v1alpha1.BGPEstablished && (bfd == "" || s.BFD == bfd && own.BFD == bfd) {
			return nil
		}
		return fmt.Errorf("FRR says %+v, %s says %+v", s, n.Name(), *own)
	}
	return fmt.Errorf("%s says nothing of FRR", n.Name())
}

// Told is what FRR counted of one neighbour.
type Told struct {
	// Updates are UPDATE messages that it received.
	Updates int
	hold    time.Duration
}

// Told reads what FRR counted of all neighbours, by address. A session that begins anew
// goes on counting.
func (f *Field) Told(ctx context.Context) (map[netip.Addr]Told, error) {
	text, err := f.FRR.Show(ctx, "show bgp neighbors json")
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it is
	}
	var all map[netip.Addr]struct {
		Hold  int `json:"bgpTimerHoldTimeMsecs"`
		Stats struct {
			Updates int `json:"updatesRecv"`
		} `json:"messageStats"`
	}
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return nil, fmt.Errorf("read what FRR says: %w", err)
	}
	out := map[netip.Addr]Told{}
	for a := range all {
		v := all[a]
		out[a] = Told{Updates: v.Stats.Updates, hold: time.Duration(v.Hold) * time.Millisecond}
	}
	return out, nil
}

// holds fails unless every session with FRR has a hold time.
func (f *Field) holds(ctx context.Context, hold time.Duration) error {
	all, err := f.Told(ctx)
	if err != nil {
		return err
	}
	for a, t := range all {
		if t.hold != hold {
			return fmt.Errorf("the hold time of %s is %s, want %s", a, t.hold, hold)
		}
	}
	return nil
}
