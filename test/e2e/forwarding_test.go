// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/test/vm"
)

// TestForwarding shows what Services ask of the data plane and who forwards them, on
// whatever kernel this machine has; the packets are test/dataplane's.
func TestForwarding(t *testing.T) {
	together(t, map[string]func(s *scenario){
		"knobs":              knobs,
		"who forwards":       whoForwards,
		"source ranges":      sourceRanges,
		"external addresses": addressesOutside,
	})
}

// thisKernel is what a Service's condition and status say where every node of the lab runs
// on this machine's kernel.
func thisKernel() (metav1.ConditionStatus, reason.Reason, corev1.LoadBalancerIPMode) {
	if vm.Probe() != nil {
		return metav1.ConditionFalse, reason.KernelWithoutIPVS, corev1.LoadBalancerIPModeVIP
	}
	return metav1.ConditionTrue, reason.Forwarded, corev1.LoadBalancerIPModeProxy
}

// mode waits until a Service's status says how its address is forwarded.
func (s *scenario) mode(service string, want corev1.LoadBalancerIPMode) {
	s.t.Helper()
	s.eventually(patience, func(ctx context.Context) error {
		svc, err := lab.Service(ctx, s.name, service)
		if err != nil {
			return err
		}
		for _, in := range svc.Status.LoadBalancer.Ingress {
			if in.IPMode == nil || *in.IPMode != want {
				return fmt.Errorf("%s: the status says %+v, want ipMode %s", service, in, want)
			}
		}
		if len(svc.Status.LoadBalancer.Ingress) == 0 {
			return fmt.Errorf("%s has no address", service)
		}
		return nil
	})
}

// knobs of the data plane become the record; a wrong one is refused.
func knobs(s *scenario) {
	t := s.t
	s.begin("knobs", "172.20.249.190-172.20.249.193")
	s.create(
		service{name: "plain"},
		service{
			name: "asks", annotations: `fairlead.dev/scheduler: "mh,mh-port", fairlead.dev/target-type: node-port`,
			spec: "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 600}}, loadBalancerSourceRanges: [172.20.0.0/16]",
		},
	)
	if _, err := lab.Apply(t.Context(), s.manifest(service{name: "wrong", annotations: "fairlead.dev/scheduler: random"})); err == nil || !strings.Contains(err.Error(), "fairlead.dev/scheduler") {
		t.Errorf("a scheduler that there is not: %v, want a refusal that names the annotation", err)
	}
	s.eventually(patience, func(ctx context.Context) error {
		plain, err := lab.Record(ctx, s.name, "plain")
		if err != nil {
			return err
		}
		asks, err := lab.Record(ctx, s.name, "asks")
		if err != nil {
			return err
		}
		var problems []error
		if sp := plain.Spec; sp.Forwarding != v1alpha1.ForwardingIPVS || sp.TargetType != v1alpha1.TargetPod || sp.SessionAffinitySeconds != 0 || len(sp.SourceRanges)+len(sp.SchedulerFlags) != 0 {
			problems = append(problems, fmt.Errorf("the record of plain says %+v, want IPVS to pods and nothing else", sp))
		}
		sp := asks.Spec
		if sp.Scheduler != "mh" || !slices.Equal(sp.SchedulerFlags, []string{"port"}) || sp.SessionAffinitySeconds != 600 ||
			sp.TargetType != v1alpha1.TargetNodePort || !slices.Equal(sp.SourceRanges, []string{"172.20.0.0/16"}) {
			problems = append(problems, fmt.Errorf("the record of asks says %+v, want all that it asks for", sp))
		}
		return errors.Join(problems...)
	})
	// What is asked for changes in place, the address stays.
	a := s.address("plain")
	s.patch("svc/plain", `{"metadata":{"annotations":{"fairlead.dev/scheduler":"wlc"}}}`)
	s.eventually(patience, func(ctx context.Context) error {
		rec, err := lab.Record(ctx, s.name, "plain")
		if err == nil && rec.Spec.Scheduler != "wlc" {
			err = fmt.Errorf("the record's scheduler is %q, want wlc", rec.Spec.Scheduler)
		}
		return err
	})
	if got := s.address("plain"); got != a {
		t.Errorf("plain has %s after the change, want %s", got, a)
	}
}

// whoForwards looks at the answer in the record, the Service's status and the NodeAgents,
// and has a Service leave IPVS and come back, served all the time.
func whoForwards(s *scenario) {
	t := s.t
	s.begin("who", "172.20.249.195-172.20.249.196")
	s.apply(s.podManifest("web1", "control-plane"))
	s.create(service{name: "web"}, service{name: "theirs", annotations: "fairlead.dev/data-plane: kube-proxy"})
	status, why, mode := thisKernel()
	forwarded := func(service string, wantStatus metav1.ConditionStatus, want reason.Reason, mode corev1.LoadBalancerIPMode) {
		t.Helper()
		if got := s.condition(service, v1alpha1.ConditionForwarded, want); got != wantStatus {
			t.Errorf("%s: Forwarded is %s for %s, want %s", service, got, want, wantStatus)
		}
		s.mode(service, mode)
		s.answers(s.address(service))
	}
	forwarded("web", status, why, mode)
	forwarded("theirs", metav1.ConditionFalse, reason.LeftToKubeProxy, corev1.LoadBalancerIPModeVIP)
	s.eventually(patience, func(ctx context.Context) error {
		agents, err := lab.NodeAgents(ctx)
		if err != nil {
			return err
		}
		var problems []error
		for i := range agents {
			p := agents[i].Status.DataPlane
			if ipvs := p.Forwarding == v1alpha1.ForwardingIPVS; ipvs != (status == metav1.ConditionTrue) || !ipvs && p.Reason != why.String() {
				problems = append(problems, fmt.Errorf("the agent of %s says %+v, want %s", agents[i].Name, p, why))
			}
		}
		return errors.Join(problems...)
	})
	s.patch("svc/web", `{"metadata":{"annotations":{"fairlead.dev/data-plane":"kube-proxy"}}}`)
	forwarded("web", metav1.ConditionFalse, reason.LeftToKubeProxy, corev1.LoadBalancerIPModeVIP)
	s.patch("svc/web", `{"metadata":{"annotations":{"fairlead.dev/data-plane":null}}}`)
	forwarded("web", status, why, mode)
	if err := lab.BuildPlugin(t.Context()); err != nil {
		t.Fatal(err)
	}
	res, err := lab.Plugin(t.Context(), "", "explain", "service", "-n", s.name, "web")
	if err != nil || !strings.Contains(res.Stdout, why.String()) {
		t.Errorf("explain does not name %s, %v:\n%s", why, err, res.Stdout)
	}
}

// sourceRanges lets one client in, and another not, whoever forwards.
func sourceRanges(s *scenario) {
	s.begin("ranges-in", "172.20.249.197/32")
	s.apply(s.podManifest("web1", "control-plane"))
	s.create(service{name: "web", spec: "loadBalancerSourceRanges: [" + mypcAddress + "/32]"})
	a := s.address("web")
	s.owner(a)
	s.answers(a)
	s.eventually(patience, func(ctx context.Context) error {
		if body, err := lab.Fetch(ctx, "mypc2", "http://"+a+"/"); err == nil {
			return fmt.Errorf("a client outside of the ranges is answered %q", body)
		}
		return nil
	})
}

// addressesOutside has addresses in spec.externalIPs that lie in no pool: two nodes' own,
// which nobody claims, and a free one, which is claimed and announced.
func addressesOutside(s *scenario) {
	t := s.t
	const first, second, free = "192.168.10.101", "192.168.10.102", "172.20.247.1"
	s.begin("outside", "")
	s.apply(s.podManifest("web1", "control-plane"))
	// Only an advertisement for all pools announces what is in none.
	s.apply("apiVersion: fairlead.dev/v1alpha1\nkind: L2Advertisement\nmetadata: {name: outside}\nspec: {}\n")
	t.Cleanup(func() { cleanUp(t, "delete", "l2advertisement.fairlead.dev", "outside") })
	s.grant(`{namespaces: [` + s.name + `], ranges: [` + first + `/32, ` + second + `/32, ` + free + `/32], ports: [{port: 9000}]}`)
	t.Cleanup(func() {
		cleanUp(t, "patch", "externalippolicy.fairlead.dev", "default", "--type=merge", "-p", `{"spec":{"grants":[]}}`)
	})
	manifest := s.manifest(service{name: "web", ports: "{port: 9000, targetPort: 80}", spec: "externalIPs: [" + first + ", " + second + ", " + free + "]"})
	manifest = strings.Replace(manifest, "type: LoadBalancer", "type: ClusterIP", 1)
	s.eventually(patience, func(ctx context.Context) error {
		_, err := lab.Apply(ctx, manifest)
		return err
	})
	s.eventually(patience, func(ctx context.Context) error {
		rec, err := lab.Record(ctx, s.name, "web")
		if err != nil {
			return err
		}
		if got := slices.Sorted(slices.Values(rec.Spec.NodeAddresses)); !slices.Equal(got, []string{first, second}) {
			return fmt.Errorf("the record has the node addresses %v, want %s and %s", got, first, second)
		}
		return nil
	})
	s.tenants(free, v1alpha1.ClaimBound, "web")
	s.rule("web", free, v1alpha1.RuleExternalIP)
	s.owner(free)
	for _, a := range []string{first, second, free} {
		s.answers(a + ":9000")
	}
	claims, err := lab.Claims(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range claims {
		if a := claims[i].Spec.Address; a == first || a == second {
			t.Errorf("%s, a node's own address, has a claim", a)
		}
	}
	// Its nodes answer for it as before: nothing of theirs is taken off.
	s.kubectl("delete", "svc", "-n", s.name, "web", "--timeout=60s")
	s.free(free)
	s.silent(free)
	for node, a := range map[string]string{"worker": first, "worker2": second} {
		if out := s.on(node, "ip", "-o", "addr", "show", "dev", "eth0"); !strings.Contains(out, " "+a+"/") {
			t.Errorf("%s has lost %s:\n%s", node, a, out)
		}
	}
}
