// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/fairlead-lb/fairlead/test/harness"
)

// announcers asks the network, not Kubernetes, who has each address.
func (d *demo) announcers(ctx context.Context) {
	d.t.Heading("Who answers on the network")
	for i, a := range tutorialAddresses() {
		d.t.Step(ctx, fmt.Sprintf("ARP for %s's address is answered by exactly one node, the owner", tutorialServices()[i]), func(ctx context.Context) (harness.Observation, error) {
			return d.arp(ctx, a)
		})
	}
	d.t.Step(ctx, "The client's neighbour table agrees", func(ctx context.Context) (harness.Observation, error) {
		o := harness.Observation{Expected: "three entries 172.20.255.20x with the owners' MACs"}
		for _, a := range tutorialAddresses() {
			if _, err := d.lab.Fetch(ctx, "mypc", "http://"+a); err != nil {
				return o, err
			}
		}
		res, err := d.onHost(ctx, "mypc", 0, "ip", "neigh", "show", "dev", "eth0")
		matching := 0
		for line := range strings.Lines(res.Stdout) {
			f := strings.Fields(line)
			for i, w := range f {
				if w == "lladdr" && i+1 < len(f) && d.owners[f[0]] != "" && d.macs[f[i+1]] == d.owners[f[0]] {
					matching++
				}
			}
		}
		o.Observed, o.Held = fmt.Sprintf("%d entries agree with the owners", matching), matching == 3
		return o, err
	})
}

// arp is one ARP question by broadcast, sent twice so that a second node could answer.
func (d *demo) arp(ctx context.Context, address string) (harness.Observation, error) {
	o := harness.Observation{Expected: "one MAC, the one of " + d.owners[address]}
	d.t.Command("mypc", "arping -b -I eth0 -c 2 -w 2 %s", address)
	macs, out, err := d.lab.ARP(ctx, "mypc", address)
	d.t.Output(out, 0)
	if err != nil {
		return o, err
	}
	var nodes []string
	for _, m := range macs {
		nodes = append(nodes, m+" ("+d.macs[m]+")")
	}
	o.Observed = fmt.Sprintf("%d MAC: %s", len(macs), strings.Join(nodes, ", "))
	o.Held = len(macs) == 1 && d.macs[macs[0]] == d.owners[address]
	return o, nil
}

// traffic sends requests from both clients and looks at how they spread.
func (d *demo) traffic(ctx context.Context) {
	d.t.Heading("Requests")
	for _, client := range []string{"mypc", "mypc2"} {
		d.t.Step(ctx, "curl from "+client+" reaches a pod through every address", func(ctx context.Context) (harness.Observation, error) {
			o := harness.Observation{Expected: "three answers, each with a Hostname"}
			answered := 0
			for _, a := range tutorialAddresses() {
				res, err := d.onHost(ctx, client, 0, "curl", "-s", "--max-time", "3", a)
				if err != nil {
					return o, err
				}
				if strings.HasPrefix(harness.Field(res.Stdout, "Hostname"), "webpod") {
					answered++
				}
			}
			o.Observed, o.Held = fmt.Sprintf("%d answers", answered), answered == 3
			return o, nil
		})
	}
	for i, a := range tutorialAddresses() {
		d.t.Step(ctx, fmt.Sprintf("100 requests to %s are spread over both pods", tutorialServices()[i]), func(ctx context.Context) (harness.Observation, error) {
			return d.spread(ctx, a)
		})
	}
	d.t.Step(ctx, "The NodePort and the ClusterIP answer as well", d.otherPorts)
}

// spread is the tutorial's loop of 100 requests.
func (d *demo) spread(ctx context.Context, address string) (harness.Observation, error) {
	o := harness.Observation{Expected: "100 answers, at least 25 from each pod"}
	d.t.Command("mypc", "zsh -c \"for i in {1..100}; do curl -s %s | grep Hostname; done | sort | uniq -c | sort -nr\"", address)
	dist, err := d.lab.Requests(ctx, "mypc", "http://"+address, 100)
	if err != nil {
		return o, err
	}
	o.Observed = dist.String()
	o.Held = dist.Total() == 100 && dist["webpod1"] >= 25 && dist["webpod2"] >= 25
	return o, nil
}

// otherPorts asks svc1 by its node port and its cluster address, on the control plane.
func (d *demo) otherPorts(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: "both answer with a Hostname"}
	svc, err := d.lab.Service(ctx, "default", "svc1")
	if err != nil {
		return o, err
	}
	nodePort := "127.0.0.1:" + strconv.Itoa(int(svc.Spec.Ports[0].NodePort))
	clusterIP, err := netip.ParseAddr(svc.Spec.ClusterIP)
	if err != nil {
		return o, fmt.Errorf("svc1's cluster address: %w", err)
	}
	var names []string
	for _, target := range []string{nodePort, clusterIP.String()} {
		res, err := d.onHost(ctx, "control-plane", 1, "curl", "-s", "--max-time", "3", target)
		if err != nil {
			return o, err
		}
		names = append(names, target+" "+harness.Field(res.Stdout, "Hostname"))
		if harness.Field(res.Stdout, "Hostname") == "" {
			return o, fmt.Errorf("no Hostname in the answer from %s", target)
		}
	}
	o.Observed, o.Held = strings.Join(names, ", "), true
	return o, nil
}
