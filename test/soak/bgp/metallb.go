// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/test/bench/bgp/field"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/plane"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
	"github.com/fairlead-lb/fairlead/test/harness/routers"
)

// switches is how often Fairlead takes over from MetalLB in each way.
const switches = 3

// metallbObjects are the field's, as they were before they were converted.
const metallbObjects = `
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: few, namespace: metallb-system}
spec: {addresses: [198.51.100.0/26], autoAssign: false}
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {name: few, namespace: metallb-system}
spec: {ipAddressPools: [few]}
`

// metallbSet is what tells Fairlead's controller that a MetalLB is there.
const metallbSet = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: speaker, namespace: metallb-system, labels: {app: metallb}}
spec:
  selector: {matchLabels: {app: metallb}}
  template: {metadata: {labels: {app: metallb}}, spec: {containers: [{name: speaker, image: none}]}}
`

// migrations have Fairlead take over from MetalLB's speakers: of all nodes at once, as the
// guide's short way is, and node by node.
func migrations(ctx context.Context, s *soak) error {
	if s.c.MetalLB == "" {
		_, end := s.row("Fairlead takes over from MetalLB: not measured, no -metallb-speaker was given", 0, "", "–")
		end()
		return nil
	}
	if err := s.Watch(ctx, field.NoBFD, field.Hold, false); err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	if err := s.InstallMetalLB(ctx, metallbObjects); err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	// A speaker tells of Services that somebody could answer for.
	for _, service := range []string{"nodes", "pod"} {
		if err := s.SetEndpoints(ctx, service, s.Nodes()[0]); err != nil {
			return err //nolint:wrapcheck // says what it is
		}
	}
	return errors.Join(
		s.migrate(ctx, "Fairlead takes over from MetalLB, all nodes at once", "–", s.atOnce),
		s.migrate(ctx, "Fairlead takes over from MetalLB, node by node", lossless, s.byNode))
}

// migrate goes back to MetalLB and has Fairlead take over, again and again.
func (s *soak) migrate(ctx context.Context, name, want string, how func(ctx context.Context, speakers map[*rig.Node]*plane.Process) error) error {
	r, end := s.row(name, switches, "s until all nodes' routes are Fairlead's", want)
	defer end()
	var said []string
	for i := range switches {
		speakers, err := s.metallb(ctx)
		if err == nil {
			one := *r
			one.Faults = nil
			err = s.during(ctx, &one, func() error {
				began := time.Now()
				defer func() { r.add(time.Since(began).Seconds()) }()
				return how(ctx, speakers)
			})
			said = append(said, one.Said)
			if r.Said = strings.Join(said, "; "); want == lossless {
				r.Faults = append(r.Faults, one.Faults...)
			}
		}
		for _, p := range speakers {
			err = errors.Join(err, p.Kill())
		}
		if err != nil {
			return fmt.Errorf("time %d: %w", i+1, err)
		}
	}
	return nil
}

// metallb ends the agents and starts speakers, until both routers have all nodes again.
func (s *soak) metallb(ctx context.Context) (map[*rig.Node]*plane.Process, error) {
	if err := s.Apply(ctx, metallbSet); err != nil {
		return nil, err //nolint:wrapcheck // says what it is
	}
	out := map[*rig.Node]*plane.Process{}
	for _, n := range s.Nodes() {
		if err := n.Terminate(); err != nil {
			return out, err //nolint:wrapcheck // says what it is
		}
		p, err := s.StartSpeaker(ctx, s.c.MetalLB, n)
		if err != nil {
			return out, err //nolint:wrapcheck // says what it is
		}
		out[n] = p
	}
	return out, s.Settled(ctx) //nolint:wrapcheck // says what it is
}

// atOnce is the guide's step 5: speakers first, then agents.
func (s *soak) atOnce(ctx context.Context, speakers map[*rig.Node]*plane.Process) error {
	if err := s.deleteSpeakers(ctx); err != nil {
		return err
	}
	for _, n := range s.Nodes() {
		if err := speakers[n].Stop(); err != nil {
			return err //nolint:wrapcheck // says what it is
		}
	}
	for _, n := range s.Nodes() {
		if err := n.StartAgent(ctx); err != nil {
			return err //nolint:wrapcheck // says what it is
		}
	}
	return s.taken(ctx, s.Nodes()...)
}

// byNode is a node whose speaker ends and whose agent begins, then the next one.
func (s *soak) byNode(ctx context.Context, speakers map[*rig.Node]*plane.Process) error {
	for _, n := range s.Nodes() {
		if err := speakers[n].Stop(); err != nil {
			return err //nolint:wrapcheck // says what it is
		}
		if err := n.StartAgent(ctx); err != nil {
			return err //nolint:wrapcheck // says what it is
		}
		if err := s.taken(ctx, n); err != nil {
			return err
		}
	}
	return s.deleteSpeakers(ctx)
}

func (s *soak) deleteSpeakers(ctx context.Context) error {
	_, err := s.Plane().Kubectl(ctx, "", "-n", "metallb-system", "delete", "daemonset", "speaker")
	return err //nolint:wrapcheck // says what it is
}

// taken waits until agents have the sessions of nodes, and routers all nodes.
func (s *soak) taken(ctx context.Context, nodes ...*rig.Node) error {
	_, err := harness.Eventually(ctx, time.Minute, func(ctx context.Context) error {
		for _, n := range nodes {
			if _, err := n.Get(ctx, "/readyz"); err != nil {
				return err //nolint:wrapcheck // says what it is
			}
			for _, r := range []routers.Router{s.FRR, s.BIRD} {
				if err := routers.WantEstablished(ctx, r, n.IPv4()); err != nil {
					return err //nolint:wrapcheck // says what it is
				}
			}
		}
		return nil
	})
	if err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	_, err = s.WaitHops(ctx, time.Minute, s.Nodes()...)
	return err //nolint:wrapcheck // says what it is
}
