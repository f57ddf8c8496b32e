// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/test/harness"
)

const (
	// mypcAddress is the client's own address.
	mypcAddress = "172.20.0.6"
	// controlPlaneAddress is that of the node where most scenarios' pods run.
	controlPlaneAddress = "172.20.0.5"
)

// TestAnnouncing shows which node announces an address, and when none does.
func TestAnnouncing(t *testing.T) {
	together(t, map[string]func(s *scenario){
		"local policy":           localPolicy,
		"local without endpoint": localWithoutEndpoints,
		"node selectors":         nodeSelectors,
		"no advertisement":       noAdvertisement,
		"stolen token":           agentTokenIsBound,
		"foreign host":           foreignHost,
		"address on loopback":    addressOnLoopback,
		"preferred nodes":        preferredNodes,
		"rotated key":            rotatedKey,
	})
}

// localPolicy moves the only pod of a Service with externalTrafficPolicy Local.
func localPolicy(s *scenario) {
	t := s.t
	s.begin("local", "172.20.251.90-172.20.251.99")
	s.apply(s.podManifest("web1", "worker3") + "---\n" + s.serviceManifest("web", "", "externalTrafficPolicy: Local"))
	a := s.address("web")
	s.ownedBy(a, "worker3")
	body := s.answers(a)
	if from := harness.Field(body, "RemoteAddr"); !strings.HasPrefix(from, mypcAddress+":") {
		t.Errorf("the pod sees %s, want the client's address %s", from, mypcAddress)
	}

	// No endpoint anywhere: nobody takes the address over, and the record says why.
	s.kubectl("delete", "pod", "-n", s.name, "web1")
	if st := s.condition("web", v1alpha1.ConditionReady, reason.NoEndpoints); st != metav1.ConditionFalse {
		t.Errorf("without endpoints Ready is %q, want False", st)
	}

	s.apply(s.podManifest("web2", "worker"))
	s.ownedBy(a, "worker")
	if name := harness.Field(s.answers(a), "Hostname"); name != "web2" {
		t.Errorf("%s answers, want web2", name)
	}
}

// localWithoutEndpoints creates a Service with Local that never had a pod.
func localWithoutEndpoints(s *scenario) {
	t := s.t
	s.begin("localnone", "172.20.251.100/32")
	s.apply(s.serviceManifest("web", "", "externalTrafficPolicy: Local"))
	a := s.address("web")
	if st := s.condition("web", v1alpha1.ConditionAnnounced, reason.NoEndpoints); st != metav1.ConditionFalse {
		t.Errorf("Announced is %q, want False", st)
	}
	s.silent(a)
}

// TestBeside shows what needs no address of a scenario's own: the examples' pools serve
// every namespace.
func TestBeside(t *testing.T) {
	together(t, map[string]func(s *scenario){
		"examples":         examples,
		"bad cloud-config": badCloudConfig,
		"mirror follows":   mirrorFollowsItsSource,
		"mirror refuses":   mirrorRefuses,
		"mirror tells":     mirrorTellsFields,
		"metrics":          metricsNeedPermission,
	})
}

// TestExcludedNode takes the announcing node out by the well-known label.
func TestExcludedNode(t *testing.T) {
	s := newScenario(t, "excluded", "172.20.251.101/32")
	s.apply(s.podManifest("web1", "control-plane") + "---\n" + s.serviceManifest("web", "", ""))
	a := s.address("web")
	first := s.owner(a)
	s.answers(a)
	s.kubectl("label", "node", first, harness.ExcludeLabel+"=true")
	t.Cleanup(func() { cleanUp(t, "label", "node", first, harness.ExcludeLabel+"-") })
	var others []string
	for _, n := range harness.Workers() {
		if n != first {
			others = append(others, n)
		}
	}
	s.ownedBy(a, others...)
	s.answers(a)
}

// nodeSelectors limits an advertisement to one node.
func nodeSelectors(s *scenario) {
	t := s.t
	s.begin("selected", "172.20.251.102/32")
	s.patchAd(`{"nodeSelectors":[{"matchLabels":{"kubernetes.io/hostname":"worker2"}}]}`)
	s.apply(s.serviceManifest("web", "", ""))
	s.ownedBy(s.address("web"), "worker2")
	s.patchAd(`{"nodeSelectors":[{"matchLabels":{"kubernetes.io/hostname":"none"}}]}`)
	s.silent(s.address("web"))
	if st := s.condition("web", v1alpha1.ConditionAnnounced, reason.NoEligibleNode); st != metav1.ConditionFalse {
		t.Errorf("Announced is %q, want False", st)
	}
}

// noAdvertisement has a pool that nothing announces.
func noAdvertisement(s *scenario) {
	t := s.t
	s.begin("unadvertised", "172.20.251.103/32")
	s.kubectl("delete", "l2advertisement.fairlead.dev", s.name)
	s.apply(s.serviceManifest("web", "", ""))
	a := s.address("web")
	if st := s.condition("web", v1alpha1.ConditionAnnounced, reason.NoAdvertisement); st != metav1.ConditionFalse {
		t.Errorf("Announced is %q, want False", st)
	}
	s.silent(a)
	s.apply(adManifest(s.name))
	s.owner(a)
}

// occupy listens on ports of a node with a pod on its network.
func (s *scenario) occupy(node string, ports ...string) {
	s.t.Helper()
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: Pod\nmetadata: {name: ports, namespace: " + s.name + "}\nspec:\n  nodeName: " + node +
		"\n  hostNetwork: true\n  terminationGracePeriodSeconds: 0\n  containers:\n")
	for _, p := range ports {
		b.WriteString("  - {name: p" + p + ", image: traefik/whoami, env: [{name: WHOAMI_PORT_NUMBER, value: \"" + p + "\"}]}\n")
	}
	s.apply(b.String())
	s.kubectl("wait", "-n", s.name, "--for=condition=Ready", "pod/ports", "--timeout=60s")
	for _, p := range ports {
		if _, err := lab.Fetch(s.t.Context(), node, "http://127.0.0.1:"+p+"/"); err != nil {
			s.t.Fatalf("port %s is not occupied: %v", p, err)
		}
	}
}

// agentPod returns the name of a node's agent pod.
func (s *scenario) agentPod(node string) string {
	s.t.Helper()
	name, err := lab.AgentPod(s.t.Context(), node)
	if err != nil {
		s.t.Fatal(err)
	}
	return name
}

// examples applies every file of deploy/examples and checks that its pools are valid,
// its Services get addresses and its external addresses are claimed.
func examples(s *scenario) {
	t := s.t
	s.begin("team-a", "")
	files, err := filepath.Glob(filepath.Join(lab.Root(), "deploy", "examples", "*.yaml"))
	if err != nil || len(files) < 8 {
		t.Fatalf("examples %v, %v; want at least eight", files, err)
	}
	for _, f := range files {
		t.Cleanup(func() { cleanUp(t, "delete", "-f", f, "--ignore-not-found") })
		// A policy's parameters are known to the API server a moment after they are written.
		s.eventually(patience, func(ctx context.Context) error {
			_, err := lab.Kubectl(ctx, "apply", "-f", f)
			return err
		})
	}
	t.Cleanup(func() { // runs before the examples go: their Services must be gone first
		cleanUp(t, "delete", "services", "-n", "default", "--field-selector", "metadata.name!=kubernetes")
		if err := giveUpRetained(context.WithoutCancel(t.Context()), "default"); err != nil {
			t.Error(err)
		}
	})
	s.eventually(patience, func(ctx context.Context) error {
		pools, err := harness.Get[v1alpha1.IPAddressPoolList](ctx, lab, "ipaddresspools.fairlead.dev")
		if err != nil {
			return err
		}
		services, err := harness.Get[corev1.ServiceList](ctx, lab, "services", "-A")
		if err != nil {
			return err
		}
		var problems []error
		for i := range pools.Items {
			p := &pools.Items[i]
			if _, why := harness.Condition(p.Status.Conditions, v1alpha1.ConditionReady); why != reason.Valid.String() && !p.Spec.Disabled {
				problems = append(problems, fmt.Errorf("pool %s: reason %q", p.Name, why))
			}
		}
		for i := range services.Items {
			problems = append(problems, exampleServed(ctx, &services.Items[i]))
		}
		return errors.Join(problems...)
	})
}

// exampleServed returns why a Service has not what it says, if it has not.
func exampleServed(ctx context.Context, svc *corev1.Service) error {
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer && len(harness.Addresses(svc)) == 0 {
		return fmt.Errorf("%s/%s has no address", svc.Namespace, svc.Name)
	}
	for _, a := range svc.Spec.ExternalIPs {
		if _, err := lab.Claim(ctx, a); err != nil && !servedOnNode(ctx, svc, a) {
			return fmt.Errorf("external address of %s/%s: %w", svc.Namespace, svc.Name, err)
		}
	}
	return nil
}

// servedOnNode reports whether a Service has an external address that is a node's own.
func servedOnNode(ctx context.Context, svc *corev1.Service, addr string) bool {
	r, err := harness.Get[v1alpha1.LoadBalancer](ctx, lab, "loadbalancers.fairlead.dev", "-n", svc.Namespace, svc.Name)
	return err == nil && slices.Contains(r.Spec.NodeAddresses, addr)
}
