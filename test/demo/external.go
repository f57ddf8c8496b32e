// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
)

// The node addresses of the tutorial's ExternalIP section, and its port.
func nodeAddresses() []string { return []string{"192.168.10.101", "192.168.10.102"} }

const externalPort = "9000"

// externalGrant allows just these; a grant is what the tutorial's cluster does without.
const externalGrant = `apiVersion: fairlead.dev/v1alpha1
kind: ExternalIPPolicy
metadata:
  name: default
spec:
  grants:
  - namespaces: [default]
    ranges: [192.168.10.101/32, 192.168.10.102/32]
    ports: [{port: 9000}]
`

// externalIPs is the tutorial's section on spec.externalIPs: addresses of nodes.
func (d *demo) externalIPs(ctx context.Context) {
	d.t.Heading("ExternalIP: the tutorial's YAML, on the addresses of two nodes")
	d.t.Step(ctx, "Nobody may take a node's address without a grant", d.ungranted)
	d.t.Step(ctx, "With a grant the tutorial's Deployment and Service are made", d.granted)
	d.t.Step(ctx, "Each node answers on its own address; both are the nodes' and nothing is announced", d.nodesAnswer)
	d.t.Step(ctx, "This chapter's objects go", func(ctx context.Context) (harness.Observation, error) {
		o := harness.Observation{Expected: "nobody answers on port " + externalPort}
		if _, err := d.typed(ctx, "delete", "service/svc-externalip", "deployment/deploy-echo", "--timeout=60s"); err != nil {
			return o, err
		}
		if _, err := d.typed(ctx, "patch", "externalippolicies", "default", "--type=merge", "-p", `{"spec":{"grants":[]}}`); err != nil {
			return o, err
		}
		_, err := harness.Eventually(ctx, 30*time.Second, func(ctx context.Context) error {
			for _, a := range nodeAddresses() {
				if _, err := d.lab.Fetch(ctx, "mypc", "http://"+a+":"+externalPort+"/"); err == nil {
					return fmt.Errorf("%s still answers", a)
				}
			}
			return nil
		})
		o.Observed, o.Held = "nobody answers", err == nil
		return o, err
	})
}

// ungranted tries the tutorial's Service as it is.
func (d *demo) ungranted(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: "the API server refuses it and says where grants are written"}
	d.t.Command("", "kubectl apply -f svc-externalip.yaml")
	res, err := d.lab.Apply(ctx, harness.TutorialExternalService)
	d.t.Output(res.Stdout+res.Stderr, 0)
	if err == nil {
		return o, errors.New("it was accepted")
	}
	o.Held = strings.Contains(res.Stderr, "ExternalIPPolicy") || strings.Contains(res.Stderr, "externalippolic")
	o.Observed = "refused"
	return o, nil
}

// granted allows the addresses and makes the objects.
func (d *demo) granted(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: strings.Join(nodeAddresses(), ", ") + " in the record as the nodes' own"}
	if _, err := d.applied(ctx, externalGrant); err != nil {
		return o, err
	}
	if _, err := d.applied(ctx, harness.TutorialEcho); err != nil {
		return o, err
	}
	d.t.Command("", "kubectl apply -f svc-externalip.yaml")
	// The API server learns of a grant a moment after it is written.
	_, err := harness.Eventually(ctx, 30*time.Second, func(ctx context.Context) error {
		res, err := d.lab.Apply(ctx, harness.TutorialExternalService)
		if err == nil {
			d.t.Output(res.Stdout, 0)
		}
		return err
	})
	if err != nil {
		return o, err
	}
	if _, err := d.typed(ctx, "rollout", "status", "deployment/deploy-echo", "--timeout=120s"); err != nil {
		return o, err
	}
	if _, err := d.typed(ctx, "get", "svc", "svc-externalip"); err != nil {
		return o, err
	}
	var got []string
	if _, err := harness.Eventually(ctx, 30*time.Second, func(ctx context.Context) error {
		rec, err := d.lab.Record(ctx, "default", "svc-externalip")
		if err != nil {
			return err
		}
		if got = rec.Spec.NodeAddresses; !slices.Equal(slices.Sorted(slices.Values(got)), nodeAddresses()) {
			return fmt.Errorf("the record says %v", got)
		}
		return nil
	}); err != nil {
		return o, err
	}
	_, err = d.typed(ctx, "describe", "svc", "svc-externalip")
	o.Observed, o.Held = strings.Join(got, ", ")+" in the record", err == nil
	return o, err
}

// nodesAnswer asks both addresses from the client.
func (d *demo) nodesAnswer(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: "both answer on port " + externalPort + "; no claim for either"}
	for _, a := range nodeAddresses() {
		url := "http://" + a + ":" + externalPort + "/"
		if _, err := harness.Eventually(ctx, 30*time.Second, func(ctx context.Context) error {
			_, err := d.lab.Fetch(ctx, "mypc", url)
			return err
		}); err != nil {
			return o, err
		}
		res, err := d.onHost(ctx, "mypc", 2, "sh", "-c", "curl -s --max-time 3 "+url+" | grep -E 'Hostname|client_address'")
		if err != nil {
			return o, err
		}
		if name := harness.Field(res.Stdout, "Hostname"); !strings.HasPrefix(name, "deploy-echo-") {
			return o, fmt.Errorf("%s answers %q, want a pod of deploy-echo", a, res.Stdout)
		}
	}
	claims, err := d.lab.Claims(ctx)
	if err != nil {
		return o, err
	}
	for i := range claims {
		if slices.Contains(nodeAddresses(), claims[i].Spec.Address) {
			return o, fmt.Errorf("claim %s is there", claims[i].Name)
		}
	}
	o.Observed, o.Held = "both answer, no claim", true
	return o, nil
}
