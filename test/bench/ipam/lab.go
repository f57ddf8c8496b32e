// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
)

// LabResult is what a number of Services costs on a lab with nodes and agents.
type LabResult struct {
	Services int `json:"services"`
	// Seconds from the apply until every Service had an address, and until a node
	// announced every one and nothing was written any more.
	AddressSeconds  float64 `json:"addressSeconds"`
	AnnounceSeconds float64 `json:"announceSeconds"`
	// ObjectWrites per Service to Fairlead's kinds and to services/status; the API
	// server's counters do not tell who wrote.
	ObjectWrites float64 `json:"objectWrites"`
	Writes       []Write `json:"writes"`
}

const labPool = "bench"

// labScenario serves one namespace; the lab's Service range has room for some 240.
const labScenario = `apiVersion: v1
kind: Namespace
metadata: {name: bench}
---
apiVersion: fairlead.dev/v1alpha1
kind: IPAddressPool
metadata: {name: bench}
spec: {addresses: [172.20.251.1-172.20.251.250], serviceAllocation: {namespaces: [bench]}}
---
apiVersion: fairlead.dev/v1alpha1
kind: L2Advertisement
metadata: {name: bench}
spec: {ipAddressPools: [bench]}
`

// labQuiet is how long the counters must stand still.
const labQuiet = 3 * time.Second

// MeasureLab applies Services on a lab and counts every write until it is quiet.
func MeasureLab(ctx context.Context, lab *harness.Lab, services int, progress io.Writer) (res *LabResult, err error) {
	if services < 1 || services > 230 {
		return nil, errors.New("lab: 1 to 230 services: its Service range is a /24")
	}
	if _, err := lab.Apply(ctx, labScenario); err != nil {
		return nil, fmt.Errorf("prepare: %w", err)
	}
	defer func() {
		_, derr := lab.KubectlIn(context.WithoutCancel(ctx), labScenario, "delete", "-f", "-", "--ignore-not-found", "--timeout=120s")
		err = errors.Join(err, derr)
	}()
	before, err := settledCounters(ctx, lab)
	if err != nil {
		return nil, err
	}
	var manifest strings.Builder
	for n := range services {
		_, _ = fmt.Fprintf(&manifest, "apiVersion: v1\nkind: Service\nmetadata: {name: s%04d, namespace: bench}\n"+
			"spec: {type: LoadBalancer, allocateLoadBalancerNodePorts: false, selector: {app: none}, ports: [{port: 80}]}\n---\n", n)
	}
	start := time.Now()
	if _, err := lab.KubectlIn(ctx, manifest.String(), "create", "-f", "-"); err != nil {
		return nil, fmt.Errorf("create the services: %w", err)
	}
	res = &LabResult{Services: services}
	if err := waitAddresses(ctx, lab, services); err != nil {
		return nil, err
	}
	res.AddressSeconds = time.Since(start).Seconds()
	if err := waitOwners(ctx, lab, services); err != nil {
		return nil, err
	}
	res.AnnounceSeconds = time.Since(start).Seconds()
	after, err := settledCounters(ctx, lab)
	if err != nil {
		return nil, err
	}
	res.count(before, after)
	_, _ = fmt.Fprintf(progress, "%d services on the lab: addresses after %.1f s, announced after %.1f s, %.2f object writes each\n",
		services, res.AddressSeconds, res.AnnounceSeconds, res.ObjectWrites)
	return res, nil
}

func waitAddresses(ctx context.Context, lab *harness.Lab, want int) error {
	_, err := harness.Eventually(ctx, 2*time.Minute, func(ctx context.Context) error {
		list, err := lab.Services(ctx, labPool)
		if err != nil {
			return err
		}
		have := 0
		for i := range list {
			if len(harness.Addresses(&list[i])) > 0 {
				have++
			}
		}
		if have != want {
			return fmt.Errorf("%d of %d services have an address", have, want)
		}
		return nil
	})
	return err
}

func waitOwners(ctx context.Context, lab *harness.Lab, want int) error {
	_, err := harness.Eventually(ctx, 2*time.Minute, func(ctx context.Context) error {
		claims, err := lab.Claims(ctx)
		if err != nil {
			return err
		}
		have := 0
		for i := range claims {
			if claims[i].Spec.Pool == labPool && claims[i].Status.Owner != nil {
				have++
			}
		}
		if have != want {
			return fmt.Errorf("%d of %d addresses are announced", have, want)
		}
		return nil
	})
	return err
}

// counted are the kinds whose writes are a Service's.
func counted(resource string) bool {
	switch resource {
	case "services/status", "services", "events", "endpointslices.discovery.k8s.io", "endpoints":
		return true
	}
	return strings.Contains(resource, ".fairlead.dev")
}

// settledCounters reads the counters when they have stood still.
func settledCounters(ctx context.Context, lab *harness.Lab) (map[Write]int, error) {
	var last map[Write]int
	var since time.Time
	_, err := harness.Eventually(ctx, 2*time.Minute, func(ctx context.Context) error {
		res, err := lab.Kubectl(ctx, "get", "--raw", "/metrics")
		if err != nil {
			return err
		}
		now := ParseCounters(res.Stdout)
		if last == nil || !equalCounters(now, last) {
			last, since = now, time.Now()
		}
		if still := time.Since(since); still < labQuiet {
			return fmt.Errorf("something was written %s ago", still.Round(time.Millisecond))
		}
		return nil
	})
	return last, err
}

// equalCounters leaves node agents' own statuses out: gossip changes them at any time.
func equalCounters(a, b map[Write]int) bool {
	for k, n := range a {
		if !strings.HasPrefix(k.Resource, "nodeagents.") && b[k] != n {
			return false
		}
	}
	return true
}

// ParseCounters reads apiserver_request_total: successful writes by verb and kind.
func ParseCounters(metrics string) map[Write]int {
	out := map[Write]int{}
	for line := range strings.Lines(metrics) {
		rest, ok := strings.CutPrefix(line, "apiserver_request_total{")
		if !ok {
			continue
		}
		text, value, ok := strings.Cut(rest, "} ")
		if !ok {
			continue
		}
		labels := map[string]string{}
		for l := range strings.SplitSeq(text, ",") {
			k, v, _ := strings.Cut(l, "=")
			labels[k] = strings.Trim(v, `"`)
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err != nil || !strings.HasPrefix(labels["code"], "2") {
			continue
		}
		switch labels["verb"] {
		case "POST", "PUT", "PATCH", "APPLY", "DELETE":
		default:
			continue
		}
		resource := labels["resource"]
		if labels["group"] != "" {
			resource += "." + labels["group"]
		}
		if labels["subresource"] != "" {
			resource += "/" + labels["subresource"]
		}
		if counted(resource) {
			out[Write{Verb: labels["verb"], Resource: resource}] += int(n)
		}
	}
	return out
}

// count fills in the difference.
func (r *LabResult) count(before, after map[Write]int) {
	objects := 0
	for k, n := range after {
		k.Done = n - before[k]
		if k.Done == 0 {
			continue
		}
		k.PerService = float64(k.Done) / float64(r.Services)
		r.Writes = append(r.Writes, k)
		if k.Resource == "services/status" || (strings.Contains(k.Resource, ".fairlead.dev") && !strings.HasPrefix(k.Resource, "nodeagents.")) {
			objects += k.Done
		}
	}
	r.ObjectWrites = float64(objects) / float64(r.Services)
	slices.SortFunc(r.Writes, func(a, b Write) int {
		return cmp.Or(cmp.Compare(b.Done, a.Done), cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Verb, b.Verb))
	})
}
