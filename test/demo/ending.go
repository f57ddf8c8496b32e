// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
)

// mypcAddress is the client's address, as in the tutorial.
const mypcAddress = "172.20.0.6"

// local shows externalTrafficPolicy Local: announced where the pods are, client address kept.
func (d *demo) local(ctx context.Context) {
	d.t.Heading("externalTrafficPolicy: Local")
	address := tutorialAddresses()[0]
	d.t.Step(ctx, "Under Local only a node with a ready pod announces svc1", func(ctx context.Context) (harness.Observation, error) {
		o := harness.Observation{Expected: "worker or worker2, by one MAC"}
		if _, err := d.typed(ctx, "patch", "svc", "svc1", "-p", `{"spec":{"externalTrafficPolicy": "Local"}}`); err != nil {
			return o, err
		}
		if _, err := harness.Eventually(ctx, 15*time.Second, func(ctx context.Context) error {
			owner, err := d.lab.Owner(ctx, address)
			if err != nil {
				return err
			}
			d.owners[address] = owner
			if owner != "worker" && owner != "worker2" {
				return fmt.Errorf("svc1 is announced by %s, which has no pod", owner)
			}
			mac, err := d.lab.OneMAC(ctx, "mypc", address)
			if err != nil {
				return err
			}
			if d.macs[mac] != owner {
				return fmt.Errorf("%s (%s) answers, the claim names %s", mac, d.macs[mac], owner)
			}
			return nil
		}); err != nil {
			return o, err
		}
		_, err := d.typed(ctx, "get", "loadbalancer", "svc1")
		o.Observed, o.Held = d.owners[address]+", by one MAC", err == nil
		return o, err
	})
	d.t.Step(ctx, "The pod sees the client's own address", func(ctx context.Context) (harness.Observation, error) {
		o := harness.Observation{Expected: "RemoteAddr: " + mypcAddress}
		res, err := d.onHost(ctx, "mypc", 0, "curl", "-s", "--max-time", "3", address)
		remote := harness.Field(res.Stdout, "RemoteAddr")
		o.Observed = "RemoteAddr: " + remote
		o.Held = strings.HasPrefix(remote, mypcAddress+":")
		return o, err
	})
}

// remove deletes the Services and looks for what is left of them.
func (d *demo) remove(ctx context.Context) {
	d.t.Heading("Deleting")
	d.t.Step(ctx, "Delete the Services: their addresses fall silent and the claims go", func(ctx context.Context) (harness.Observation, error) {
		o := harness.Observation{Expected: "no claim, no record, no ARP answer"}
		if _, err := d.typed(ctx, "delete", "svc", "svc1", "svc2", "svc3", "--timeout=30s"); err != nil {
			return o, err
		}
		took, err := harness.Eventually(ctx, 20*time.Second, func(ctx context.Context) error {
			claims, err := d.lab.Claims(ctx)
			if err != nil {
				return err
			}
			records, err := d.lab.Records(ctx, "default")
			if err != nil {
				return err
			}
			if len(claims)+len(records) > 0 {
				return fmt.Errorf("%d claims and %d records are left", len(claims), len(records))
			}
			return nil
		})
		if err != nil {
			return o, err
		}
		var answers []error
		for _, a := range tutorialAddresses() {
			answers = append(answers, d.lab.Silent(ctx, "mypc", a))
		}
		err = errors.Join(answers...)
		o.Observed, o.Held = fmt.Sprintf("nothing left %.1f s after the command, no answer", took.Seconds()), err == nil
		return o, err
	})
}

// uninstall removes Fairlead and looks for traces on every node.
func (d *demo) uninstall(ctx context.Context) {
	d.t.Step(ctx, "Uninstall Fairlead: nothing is left in the API or on a node", func(ctx context.Context) (harness.Observation, error) {
		o := harness.Observation{Expected: "no CRD, no namespace, no link, address or rule of ours"}
		d.t.Command("", "deploy/uninstall.sh")
		res, err := d.lab.Script(ctx, "deploy/uninstall.sh")
		d.t.Output(res.Stdout+res.Stderr, 30)
		if err != nil {
			return o, err
		}
		left, err := d.lab.Kubectl(ctx, "get", "crd,clusterrole,clusterrolebinding,validatingadmissionpolicy,namespace", "-o", "name")
		if err != nil {
			return o, err
		}
		var problems []error
		for line := range strings.Lines(left.Stdout) {
			if strings.Contains(line, "fairlead") {
				problems = append(problems, errors.New("left in the API: "+strings.TrimSpace(line)))
			}
		}
		for _, node := range harness.FairleadNodes() {
			problems = append(problems, d.lab.Traces(ctx, node, "172.20.255."))
		}
		err = errors.Join(problems...)
		o.Observed, o.Held = "nothing left", err == nil
		return o, err
	})
}
