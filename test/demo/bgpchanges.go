// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/routers"
)

const (
	// bgpCut is the node whose power is cut; none of the tutorial's pods runs there.
	bgpCut = "worker3"
	// bgpDrained is the node that is drained, at the address of its session.
	bgpDrained        = "worker2"
	bgpDrainedAddress = "192.168.10.102"
	// gracefulShutdown is the community of RFC 8326.
	gracefulShutdown = "65535:0"
	// bgpAtOnce is what may fail as the router spreads connections anew: those that are open
	// at that instant may go to another node than before.
	bgpAtOnce = 2
)

const (
	bgpProfile = `apiVersion: fairlead.dev/v1alpha1
kind: BFDProfile
metadata:
  name: usual
spec: {receiveInterval: 300, transmitInterval: 300, detectMultiplier: 3}
`
	bgpRouterBFD = `router bgp 64513
 neighbor 192.168.10.10 bfd
 neighbor 192.168.10.101 bfd
 neighbor 192.168.10.102 bfd
 neighbor 192.168.10.103 bfd
`
	bgpThirdPod = `apiVersion: v1
kind: Pod
metadata:
  name: webpod3
  labels: {app: webpod}
spec:
  nodeName: worker
  containers:
    - name: container
      image: traefik/whoami
  terminationGracePeriodSeconds: 0
`
)

// bgpChanges is what becomes of the routes when nodes and pods do.
func (d *demo) bgpChanges(ctx context.Context) {
	cut := d.t.Step(ctx, "BFD watches every session", d.watched) &&
		d.t.Step(ctx, "A node's power is cut: its share of the requests goes to other nodes", d.cutHop)
	if cut {
		d.t.Note("It is started again, which takes a while; meanwhile:")
		d.t.Command("", "fairlead-lab start --state-dir %s %s", d.lab.StateDir(), bgpCut)
		if err := d.lab.Start(ctx, bgpCut); err != nil {
			d.t.Note("%v", err)
		}
	}
	d.t.Step(ctx, "Another node is drained: the router is asked to take other ways first, no request fails", d.drained)
	d.t.Step(ctx, "externalTrafficPolicy Local: nodes with pods only, and each says how many it has", d.weighed)
	d.t.Step(ctx, "Cluster again: the node that was started again is a next hop like before", d.fourAgain)
}

// routerStream is stream to the Service behind the router.
func (d *demo) routerStream(ctx context.Context, length time.Duration, event func(context.Context) error) (*harness.Report, error) {
	d.t.Command("mypc", "fairlead-probe -target %s -rate %d -for %s &", harness.URL(bgpVIP), steadyRate, length)
	probe, err := d.lab.StartStream(ctx, "mypc", harness.URL(bgpVIP), steadyRate, length)
	if err != nil {
		return nil, err
	}
	if err := event(ctx); err != nil {
		return nil, err
	}
	return probe.Wait(ctx)
}

// shutdownPath wants the drained node's path to ask for the least preference.
func shutdownPath(paths []routers.Path) error {
	for i := range paths {
		p := &paths[i]
		if p.NextHop != netip.MustParseAddr(bgpDrainedAddress) {
			continue
		}
		if !slices.Contains(p.Communities, gracefulShutdown) {
			return fmt.Errorf("the path by %s has the communities %v", bgpDrained, p.Communities)
		}
		return nil
	}
	return fmt.Errorf("no path by %s", bgpDrained)
}

func (d *demo) drained(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: fmt.Sprintf("GRACEFUL_SHUTDOWN on %s's path, which is not in use; no request fails, but for at most %d "+
		"that were under way when the router changed its mind", bgpDrained, bgpAtOnce)}
	var hops []string
	without := func(all []string) bool { return len(all) > 0 && !slices.Contains(all, bgpDrainedAddress) }
	report, err := d.routerStream(ctx, 4*time.Second, func(ctx context.Context) error {
		if _, err := d.typed(ctx, "cordon", bgpDrained); err != nil {
			return err
		}
		_, err := d.paths(ctx, shutdownPath)
		if err == nil {
			hops, _, err = d.hops(ctx, without)
		}
		if err != nil {
			return err
		}
		if _, err := d.onRouter(ctx, "show ip bgp "+bgpPrefix().String()); err != nil {
			return err
		}
		_, err = d.typed(ctx, "uncordon", bgpDrained)
		return err
	})
	if err != nil {
		_, uncordon := d.lab.Kubectl(ctx, "uncordon", bgpDrained)
		return o, errors.Join(err, uncordon)
	}
	d.t.Note("%s", report)
	_, _, err = d.hops(ctx, func(all []string) bool { return !without(all) })
	o.Observed = fmt.Sprintf("GRACEFUL_SHUTDOWN; in use: %s; %d of %d requests failed", strings.Join(hops, ", "), report.Failed, report.Sent)
	o.Held = err == nil && report.Failed <= bgpAtOnce
	return o, err
}

func (d *demo) watched(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: "4 BFD sessions up, by the router and by Fairlead"}
	if _, err := d.applied(ctx, bgpProfile); err != nil {
		return o, err
	}
	res, err := d.lab.Kubectl(ctx, "get", "bgppeers.fairlead.dev", "-o", "jsonpath={.items[0].metadata.name}")
	if err != nil {
		return o, err
	}
	if _, err := d.typed(ctx, "patch", "bgppeers", res.Stdout, "--type=merge", "-p", `{"spec":{"bfdProfile":"usual"}}`); err != nil {
		return o, err
	}
	if err := d.configureRouter(ctx, bgpRouterBFD); err != nil {
		return o, err
	}
	took, err := d.sessions(ctx, func(s routers.Session) error {
		if s.BFD != "Up" {
			return fmt.Errorf("BFD with %s is %q", s.Neighbor, s.BFD)
		}
		return established(s)
	})
	if err != nil {
		return o, err
	}
	if _, err := d.onRouter(ctx, "show bfd peers brief"); err != nil {
		return o, err
	}
	if err := d.peers(ctx, "Established", "Up"); err != nil {
		return o, err
	}
	_, _, err = d.hops(ctx, many(4))
	o.Observed, o.Held = fmt.Sprintf("4 up, %.1f s after the commands", took.Seconds()), err == nil
	return o, err
}

func (d *demo) cutHop(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: fmt.Sprintf("requests fail for less than %.0f ms, and only a share of them", float64(blackoutLimit.Milliseconds()))}
	var cut time.Time
	report, err := d.routerStream(ctx, 4*time.Second, func(ctx context.Context) (err error) {
		d.t.Command("", "fairlead-lab kill --state-dir %s %s", d.lab.StateDir(), bgpCut)
		cut, err = d.lab.Kill(ctx, bgpCut)
		return err
	})
	if err != nil {
		return o, err
	}
	d.t.Note("%s", report)
	hops, _, err := d.hops(ctx, many(3))
	if err != nil {
		return o, err
	}
	if _, err := d.onRouter(ctx, "show ip route "+bgpPrefix().String()); err != nil {
		return o, err
	}
	blackout := report.Share(cut)
	o.Observed = fmt.Sprintf("%d of %d failed, the last one begun %.0f ms after the cut; next hops now: %s", report.Failed, report.Sent, blackout, strings.Join(hops, ", "))
	o.Held = report.Failed > 0 && blackout < float64(blackoutLimit.Milliseconds())
	return o, nil
}

// weighed has two pods on one node and one on another.
func (d *demo) weighed(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: "2 next hops with link bandwidth 2:1, which FRR writes as 66 and 33 of 100; the pod sees the client's own address"}
	if _, err := d.applied(ctx, bgpThirdPod); err != nil {
		return o, err
	}
	if _, err := d.typed(ctx, "wait", "--for=condition=Ready", "--timeout=30s", "pod/webpod3"); err != nil {
		return o, err
	}
	if _, err := d.typed(ctx, "patch", "svc", "svc-bgp", "-p", `{"spec":{"externalTrafficPolicy":"Local"}}`); err != nil {
		return o, err
	}
	want := map[string]string{"192.168.10.101": "lb:250000", "192.168.10.102": "lb:125000"}
	_, err := d.paths(ctx, func(paths []routers.Path) error {
		if len(paths) != len(want) {
			return fmt.Errorf("the router has %d paths, want %d", len(paths), len(want))
		}
		for i := range paths {
			if hop := paths[i].NextHop.String(); !slices.Contains(paths[i].Communities, want[hop]) {
				return fmt.Errorf("the path by %s has the communities %v", hop, paths[i].Communities)
			}
		}
		return nil
	})
	if err != nil {
		return o, err
	}
	if _, _, err := d.hops(ctx, many(2)); err != nil {
		return o, err
	}
	if _, err := d.onRouter(ctx, "show ip bgp "+bgpPrefix().String()); err != nil {
		return o, err
	}
	route, err := d.onRouter(ctx, "show ip route "+bgpPrefix().String())
	if err != nil {
		return o, err
	}
	d.t.Command("", "kubectl fairlead explain service svc-bgp")
	res, err := d.lab.Plugin(ctx, "", "explain", "service", "svc-bgp")
	d.t.Output(res.Stdout+res.Stderr, 30)
	if err != nil {
		return o, err
	}
	// kube-proxy may need a moment for the new policy.
	_, _ = harness.Eventually(ctx, 10*time.Second, func(ctx context.Context) error {
		answer, err := d.lab.Fetch(ctx, "mypc", harness.URL(bgpVIP))
		if err == nil && !strings.HasPrefix(harness.Field(answer, "RemoteAddr"), mypcAddress+":") {
			err = errors.New("the pod sees a node")
		}
		return err
	})
	res, err = d.onHost(ctx, "mypc", 0, "curl", "-s", "--max-time", "3", bgpVIP)
	remote := harness.Field(res.Stdout, "RemoteAddr")
	o.Observed = fmt.Sprintf("%s; RemoteAddr: %s", strings.Join(weights(route), ", "), remote)
	o.Held = slices.Equal(weights(route), []string{"192.168.10.101 weight 66", "192.168.10.102 weight 33"}) && strings.HasPrefix(remote, mypcAddress+":")
	return o, err
}

// weights are the next hops of FRR's "show ip route" and the share that each one has.
func weights(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		// * 192.168.10.102, via eth0, weight 33
		if f := strings.Fields(line); len(f) >= 6 && f[0] == "*" && f[4] == "weight" {
			out = append(out, strings.TrimSuffix(f[1], ",")+" weight "+f[5])
		}
	}
	slices.Sort(out)
	return out
}

func (d *demo) fourAgain(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: "4 next hops"}
	if _, err := d.typed(ctx, "patch", "svc", "svc-bgp", "-p", `{"spec":{"externalTrafficPolicy":"Cluster"}}`); err != nil {
		return o, err
	}
	if _, err := d.typed(ctx, "delete", "pod", "webpod3"); err != nil {
		return o, err
	}
	if _, err := harness.Eventually(ctx, 2*bgpCalm, func(ctx context.Context) error {
		return errors.Join(d.lab.NodesReady(ctx, 4), d.lab.AgentsReady(ctx, 4))
	}); err != nil {
		return o, err
	}
	hops, _, err := d.hops(ctx, many(4))
	o.Observed, o.Held = strings.Join(hops, ", "), err == nil
	return o, err
}
