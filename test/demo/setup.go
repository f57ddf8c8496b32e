// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/test/harness"
)

// The tutorial's Services and the addresses that they get, in this order.
func tutorialServices() []string { return []string{"svc1", "svc2", "svc3"} }

func tutorialAddresses() []string {
	return []string{"172.20.255.200", "172.20.255.201", "172.20.255.202"}
}

// cluster shows the nodes: Ready, and untainted, which is the cloud controller's work.
func (d *demo) cluster(ctx context.Context) {
	d.t.Step(ctx, "Every node is Ready, and Fairlead's controller has initialized it", func(ctx context.Context) (harness.Observation, error) {
		o := harness.Observation{Expected: "4 nodes Ready, none tainted as uninitialized, each with a providerID"}
		_, err := harness.Eventually(ctx, 30*time.Second, func(ctx context.Context) error { return d.lab.NodesReady(ctx, 4) })
		if err != nil {
			return o, err
		}
		if _, err := d.typed(ctx, "get", "nodes", "-o", "wide"); err != nil {
			return o, err
		}
		d.t.Note("kubeadm and kind keep control-plane nodes from announcing; so do we:")
		if _, err := d.typed(ctx, "label", "--overwrite", "node", "control-plane", harness.ExcludeLabel+"="); err != nil {
			return o, err
		}
		nodes, err := d.lab.Nodes(ctx)
		if err != nil {
			return o, err
		}
		with := 0
		for i := range nodes {
			if nodes[i].Spec.ProviderID == "fairlead://"+nodes[i].Name {
				with++
			}
		}
		o.Observed = fmt.Sprintf("%d nodes Ready, none tainted, %d with providerID fairlead://NAME", len(nodes), with)
		o.Held = with == 4
		return o, nil
	})
	d.t.Step(ctx, "Fairlead runs as a Deployment and a DaemonSet, and the agents see each other", func(ctx context.Context) (harness.Observation, error) {
		o := harness.Observation{Expected: "4 node agents Ready, each sees 4 members"}
		_, err := harness.Eventually(ctx, 60*time.Second, func(ctx context.Context) error { return d.lab.AgentsReady(ctx, 4) })
		if err != nil {
			return o, err
		}
		if _, err := d.typed(ctx, "get", "pods", "-n", harness.Namespace, "-o", "wide"); err != nil {
			return o, err
		}
		if _, err := d.typed(ctx, "get", "nodeagents"); err != nil {
			return o, err
		}
		macs, err := d.lab.MACTable(ctx, harness.FairleadNodes())
		d.macs = macs
		o.Observed, o.Held = o.Expected, err == nil
		return o, err
	})
}

// configure applies the tutorial's pool and advertisement, then its pods.
func (d *demo) configure(ctx context.Context) {
	d.t.Heading("Pool, advertisement, pods: the tutorial's YAML, unchanged")
	d.t.Step(ctx, "A pool of addresses, as MetalLB's own kind", func(ctx context.Context) (harness.Observation, error) {
		res, err := d.applied(ctx, harness.TutorialPool)
		return contains(res.Stdout, "ipaddresspool.metallb.io/my-ippool created"), err
	})
	d.t.Step(ctx, "A layer-2 advertisement for it", func(ctx context.Context) (harness.Observation, error) {
		res, err := d.applied(ctx, harness.TutorialAdvertisement)
		return contains(res.Stdout, "l2advertisement.metallb.io/my-l2-advertise created"), err
	})
	d.t.Step(ctx, "Both are read back as the tutorial reads them, and are in use", d.poolInUse)
	d.t.Step(ctx, "Two web servers on two nodes", func(ctx context.Context) (harness.Observation, error) {
		o := harness.Observation{Expected: "webpod1 runs on worker, webpod2 on worker2"}
		if _, err := d.applied(ctx, harness.TutorialPods); err != nil {
			return o, err
		}
		if _, err := harness.Eventually(ctx, 60*time.Second, d.podsReady); err != nil {
			return o, err
		}
		res, err := d.typed(ctx, "get", "pod", "-o", "wide")
		o.Observed = "webpod1 and webpod2 Running there"
		o.Held = strings.Contains(res.Stdout, "webpod1") && strings.Contains(res.Stdout, "webpod2")
		return o, err
	})
}

// poolInUse looks at the pool in both kinds.
func (d *demo) poolInUse(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: `my-ippool true false ["172.20.255.200-172.20.255.250"], its Fairlead copy Ready`}
	if _, err := harness.Eventually(ctx, 15*time.Second, func(ctx context.Context) error {
		_, err := d.lab.Kubectl(ctx, "wait", "--for=condition=Ready", "--timeout=1s",
			"ipaddresspools.fairlead.dev/my-ippool", "l2advertisements.fairlead.dev/my-l2-advertise")
		return err
	}); err != nil {
		return o, err
	}
	res, err := d.typed(ctx, "get", "ipaddresspools.metallb.io", "-n", "metallb-system")
	if err != nil {
		return o, err
	}
	if _, err := d.typed(ctx, "get", "l2advertisements.metallb.io", "-n", "metallb-system"); err != nil {
		return o, err
	}
	if _, err := d.typed(ctx, "get", "ipaddresspools,l2advertisements", "-A"); err != nil {
		return o, err
	}
	row := ""
	for line := range strings.Lines(res.Stdout) {
		if strings.HasPrefix(line, "my-ippool") {
			row = strings.Join(strings.Fields(line), " ")
		}
	}
	o.Observed = row + ", its Fairlead copy Ready"
	o.Held = strings.HasPrefix(row, `my-ippool true false ["172.20.255.200-172.20.255.250"]`)
	return o, nil
}

// podsReady returns nil when both web servers are Ready on their nodes.
func (d *demo) podsReady(ctx context.Context) error {
	pods, err := d.lab.Pods(ctx, "default", "app=webpod")
	if err != nil {
		return err
	}
	ready := 0
	for i := range pods {
		if slices.ContainsFunc(pods[i].Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		}) {
			ready++
		}
	}
	if ready != 2 {
		return fmt.Errorf("%d web servers are Ready, want 2", ready)
	}
	return nil
}

// contains is the observation of a command that should print a line.
func contains(out, want string) harness.Observation {
	return harness.Observation{Expected: want, Observed: strings.TrimSpace(out), Held: strings.Contains(out, want)}
}

// services creates svc1 to svc3 and looks at their addresses and descriptions.
func (d *demo) services(ctx context.Context) {
	d.t.Heading("Three Services of type LoadBalancer")
	d.t.Step(ctx, "svc1, svc2 and svc3 get the pool's first three addresses", func(ctx context.Context) (harness.Observation, error) {
		o := harness.Observation{Expected: strings.Join(tutorialAddresses(), ", ")}
		began := time.Now()
		if _, err := d.applied(ctx, harness.TutorialServices); err != nil {
			return o, err
		}
		var got []string
		if _, err := harness.Eventually(ctx, 20*time.Second, func(ctx context.Context) error {
			got = nil
			for _, name := range tutorialServices() {
				a, err := d.lab.Address(ctx, "default", name)
				if err != nil {
					return err
				}
				got = append(got, a)
			}
			return nil
		}); err != nil {
			return o, err
		}
		o.Observed = fmt.Sprintf("%s, %.1f s after the command", strings.Join(got, ", "), time.Since(began).Seconds())
		o.Held = slices.Equal(got, tutorialAddresses())
		_, err := d.typed(ctx, "get", "service")
		return o, err
	})
	d.t.Step(ctx, "kubectl get shows addresses, pool and announcing node", func(ctx context.Context) (harness.Observation, error) {
		o := harness.Observation{Expected: "every record Ready with an owner node, every claim Bound"}
		if _, err := harness.Eventually(ctx, 20*time.Second, d.readOwners); err != nil {
			return o, err
		}
		if _, err := d.typed(ctx, "wait", "--for=condition=Ready", "--timeout=10s", "loadbalancers", "--all"); err != nil {
			return o, err
		}
		_, err := d.typed(ctx, "get", "loadbalancers,ipclaims,ipaddresspools", "-A")
		o.Observed, o.Held = ownersText(d.owners), len(d.owners) == 3
		return o, err
	})
	d.t.Step(ctx, "kubectl describe is a readable answer, with one event per change", d.describe)
}

// describe looks at svc1's description and counts its events.
func (d *demo) describe(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: "LoadBalancer Ingress 172.20.255.200 (VIP); one AddressAllocated and one Announcing event"}
	if _, err := d.typed(ctx, "describe", "svc", "svc1"); err != nil {
		return o, err
	}
	res, err := d.lab.Kubectl(ctx, "describe", "svc", "svc1")
	if err != nil {
		return o, err
	}
	events, err := d.lab.Events(ctx, "default", "Service", "svc1")
	if err != nil {
		return o, err
	}
	count := map[string]int{}
	for i := range events {
		count[events[i].Reason] += int(max(1, events[i].Count))
	}
	ingress := "no LoadBalancer Ingress line"
	for line := range strings.Lines(res.Stdout) {
		if strings.HasPrefix(line, "LoadBalancer Ingress:") {
			ingress = strings.Join(strings.Fields(line), " ")
		}
	}
	o.Observed = fmt.Sprintf("%s; AddressAllocated %d, Announcing %d", ingress, count["AddressAllocated"], count["Announcing"])
	o.Held = strings.Contains(ingress, "172.20.255.200 (VIP)") && count["AddressAllocated"] == 1 && count["Announcing"] == 1
	return o, nil
}

// readOwners notes which node announces each address.
func (d *demo) readOwners(ctx context.Context) error {
	for _, a := range tutorialAddresses() {
		owner, err := d.lab.Owner(ctx, a)
		if err != nil {
			return err
		}
		d.owners[a] = owner
	}
	return nil
}

// ownersText shows addresses and their nodes.
func ownersText(owners map[string]string) string {
	var parts []string
	for _, a := range tutorialAddresses() {
		if n, ok := owners[a]; ok {
			parts = append(parts, a+" by "+n)
		}
	}
	return strings.Join(parts, ", ")
}
