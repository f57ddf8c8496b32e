// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/test/harness"
)

const (
	// twinAddress is one that mypc2 takes for itself before a Service asks for it.
	twinAddress = "172.20.255.249"
	// steadyRate is how many new connections a second go on meanwhile.
	steadyRate = 100
)

// planned shows what costs no request: an agent that restarts, a node that is emptied; and
// what Fairlead does not do: answer for an address that another host has.
func (d *demo) planned(ctx context.Context) {
	d.t.Heading("An address that somebody else has, a restart, a drain")
	d.t.Step(ctx, "A Service gets an address that another host uses: it is not announced, and says why", d.duplicate)
	d.t.Step(ctx, "The agent that announces svc1 is replaced: no request fails and the address stays", d.restart)
	d.t.Step(ctx, "The node that announces svc1 is cordoned, as kubectl drain begins: the address moves, no request fails", d.cordon)
	d.t.Step(ctx, "The Service whose address the other host gave up meanwhile is announced", d.singular)
}

// stream sends requests to svc1 while event happens, and returns what became of them.
func (d *demo) stream(ctx context.Context, length time.Duration, event func(context.Context) error) (*harness.Report, error) {
	target := harness.URL(tutorialAddresses()[0])
	d.t.Command("mypc", "fairlead-probe -target %s -rate %d -for %s &", target, steadyRate, length)
	probe, err := d.lab.StartStream(ctx, "mypc", target, steadyRate, length)
	if err != nil {
		return nil, err
	}
	if err := event(ctx); err != nil {
		return nil, err
	}
	report, err := probe.Wait(ctx)
	if err == nil {
		d.t.Note("%s", report)
	}
	return report, err
}

// restart deletes the agent's pod; the DaemonSet makes another one.
func (d *demo) restart(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: "no request fails, the owner is the same, with a higher epoch"}
	address := tutorialAddresses()[0]
	before, err := d.lab.Claim(ctx, address)
	if err != nil {
		return o, err
	}
	if before.Status.Owner == nil {
		return o, fmt.Errorf("%s has no owner", address)
	}
	node := before.Status.Owner.Node
	pod, err := d.lab.AgentPod(ctx, node)
	if err != nil {
		return o, err
	}
	report, err := d.stream(ctx, 6*time.Second, func(ctx context.Context) error {
		if _, err := d.typed(ctx, "delete", "pod", "-n", harness.Namespace, pod, "--wait=false"); err != nil {
			return err
		}
		d.t.Note("While it is away the node's kernel answers: the agent left the address there, with a lifetime.")
		if _, err := harness.Eventually(ctx, 5*time.Second, func(ctx context.Context) error {
			res, err := d.lab.Exec(ctx, node, "ip", "-4", "-o", "addr", "show", "to", address)
			if err == nil && res.Stdout == "" {
				err = fmt.Errorf("%s is not on a link of %s", address, node)
			}
			return err
		}); err != nil {
			return err
		}
		_, err := d.onHost(ctx, node, 0, "ip", "-4", "addr", "show", "to", address)
		return err
	})
	if err != nil {
		return o, err
	}
	var after *v1alpha1.IPClaim
	if _, err := harness.Eventually(ctx, 20*time.Second, func(ctx context.Context) error {
		after, err = d.lab.Claim(ctx, address)
		if err == nil && (after.Status.Owner == nil || after.Status.Owner.Epoch <= before.Status.Owner.Epoch) {
			err = fmt.Errorf("the claim of %s is as before", address)
		}
		return err
	}); err != nil {
		return o, err
	}
	if _, err := d.typed(ctx, "get", "ipclaims", address, "-o", "wide"); err != nil {
		return o, err
	}
	now := after.Status.Owner
	o.Observed = fmt.Sprintf("%d of %d requests failed; %s, epoch %d, before %s, epoch %d", report.Failed, report.Sent,
		now.Node, now.Epoch, node, before.Status.Owner.Epoch)
	o.Held = report.Failed == 0 && now.Node == node
	return o, nil
}

// cordon empties the node of addresses. It has pods of the tutorial, which stay.
func (d *demo) cordon(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: "another node announces svc1, no request fails, and the address stays there"}
	address := tutorialAddresses()[0]
	node, err := d.lab.Owner(ctx, address)
	if err != nil {
		return o, err
	}
	var took time.Duration
	report, err := d.stream(ctx, 3*time.Second, func(ctx context.Context) error {
		if _, err := d.typed(ctx, "cordon", node); err != nil {
			return err
		}
		var err error
		took, err = harness.Eventually(ctx, 10*time.Second, func(ctx context.Context) error {
			now, err := d.lab.Owner(ctx, address)
			if err == nil && now == node {
				err = fmt.Errorf("%s still announces svc1", node)
			}
			return err
		})
		return err
	})
	if _, uerr := d.typed(ctx, "uncordon", node); uerr != nil {
		return o, uerr
	}
	if err != nil {
		return o, err
	}
	if err := d.readOwners(ctx); err != nil {
		return o, err
	}
	got, err := d.arp(ctx, address)
	if err != nil {
		return o, err
	}
	o.Observed = fmt.Sprintf("%d of %d requests failed; from %s to %s after %.1f s; %s", report.Failed, report.Sent, node, d.owners[address], took.Seconds(), got.Observed)
	o.Held = report.Failed == 0 && got.Held && d.owners[address] != node
	return o, nil
}

// duplicate lets a host outside the cluster have an address first.
func (d *demo) duplicate(ctx context.Context) (harness.Observation, error) {
	mac, err := d.lab.MAC(ctx, "mypc2")
	o := harness.Observation{Expected: "DuplicateAddress, and mypc2's MAC " + mac}
	if err != nil {
		return o, err
	}
	if _, err := d.onHost(ctx, "mypc2", 0, "ip", "addr", "add", twinAddress+"/32", "dev", "eth0"); err != nil {
		return o, err
	}
	if _, err := d.applied(ctx, demoService("twin", `fairlead.dev/addresses: "`+twinAddress+`"`, "80")); err != nil {
		return o, err
	}
	if _, err := harness.Eventually(ctx, 10*time.Second, func(ctx context.Context) error {
		rec, err := d.lab.Record(ctx, "default", "twin")
		if err != nil {
			return err
		}
		if _, o.Observed = harness.Condition(rec.Status.Conditions, v1alpha1.ConditionAnnounced); o.Observed != reason.DuplicateAddress.String() {
			err = fmt.Errorf("the record of twin says %q", o.Observed)
		}
		return err
	}); err != nil {
		return o, err
	}
	if _, err := d.typed(ctx, "get", "events", "--field-selector", "involvedObject.name=twin,type=Warning", "-o", "custom-columns=REASON:.reason,MESSAGE:.message"); err != nil {
		return o, err
	}
	d.t.Command("", "kubectl fairlead explain service twin")
	res, err := d.lab.Plugin(ctx, "", "explain", "service", "twin")
	d.t.Output(res.Stdout+res.Stderr, 30)
	if !strings.Contains(res.Stdout, mac) {
		return o, err
	}
	o.Observed += ", and " + mac
	o.Held = true
	d.t.Note("The agent asks again every ten seconds. The other host gives the address up:")
	_, err = d.onHost(ctx, "mypc2", 0, "ip", "addr", "del", twinAddress+"/32", "dev", "eth0")
	return o, err
}

// singular waits until the agent has asked for the address again, and removes the Service.
func (d *demo) singular(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: "a node announces " + twinAddress + ", without a further command"}
	owner := ""
	_, err := harness.Eventually(ctx, 15*time.Second, func(ctx context.Context) (err error) {
		owner, err = d.lab.Owner(ctx, twinAddress)
		return err
	})
	if err != nil {
		return o, err
	}
	mac, err := d.lab.OneMAC(ctx, "mypc", twinAddress)
	if err != nil {
		return o, err
	}
	o.Observed = d.macs[mac] + " announces it"
	o.Held = d.macs[mac] == owner
	if err := d.explain(ctx, "twin"); err != nil {
		return o, err
	}
	if _, err := d.typed(ctx, "delete", "service", "twin", "--timeout=30s"); err != nil {
		return o, err
	}
	_, err = harness.Eventually(ctx, 10*time.Second, func(ctx context.Context) error {
		claims, err := d.lab.Claims(ctx)
		if err == nil && len(claims) != len(tutorialAddresses()) {
			err = fmt.Errorf("%d claims are left, want the tutorial's %d", len(claims), len(tutorialAddresses()))
		}
		return err
	})
	return o, err
}
