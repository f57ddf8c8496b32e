// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/soak/churn"
	"github.com/fairlead-lb/fairlead/test/soak/l2"
)

// TestControllerAway deletes, creates and replaces Services while no controller runs.
func TestControllerAway(t *testing.T) {
	s := newScenario(t, "ccmaway", "172.20.251.130-172.20.251.132")
	s.apply(s.podManifest("web1", "control-plane") + "---\n" + s.serviceManifest("stays", "", "") + "---\n" + s.serviceManifest("goes", "", "") +
		"---\n" + s.serviceManifest("restored", "", ""))
	stays, goes, restored := s.address("stays"), s.address("goes"), s.address("restored")
	s.owner(stays)
	s.answers(stays)
	steady := s.steady("stays", stays, 12*time.Second)
	s.scaleController(0)
	t.Cleanup(func() { cleanUp(t, "scale", "-n", harness.Namespace, "deployment/fairlead-controller", "--replicas=2") })
	s.kubectl("delete", "svc", "-n", s.name, "goes", "--wait=false")
	s.apply(s.serviceManifest("comes", "", ""))
	toldOfKind := s.unreadKind()
	// As a restore from a backup does: another UID, no status, and the claim still there.
	s.patch("svc/restored", `{"metadata":{"finalizers":null}}`)
	s.kubectl("delete", "svc", "-n", s.name, "restored", "--timeout=60s")
	s.apply(s.serviceManifest("restored", "", ""))
	svc, err := lab.Service(t.Context(), s.name, "goes")
	if err != nil {
		t.Fatalf("the Service went without its controller: %v", err)
	}
	if len(svc.Finalizers) == 0 {
		t.Error("the Service being deleted has no finalizer")
	}
	s.answers(stays)
	steady()
	s.scaleController(2)
	s.eventually(patience, func(ctx context.Context) error {
		res, err := lab.Kubectl(ctx, "get", "svc", "-n", s.name, "goes", "--ignore-not-found", "-o", "name")
		if err == nil && res.Stdout != "" {
			err = errors.New("the deleted Service is still there")
		}
		return err
	})
	if a := s.address("comes"); a != goes {
		t.Errorf("the new Service got %s, want the freed %s", a, goes)
	}
	if a := s.address("stays"); a != stays {
		t.Errorf("the other Service has %s now, want %s", a, stays)
	}
	toldOfKind()
	s.has("restored", restored)
	s.rule("restored", restored, v1alpha1.RuleRetained)
	s.owner(goes)
}

// steady sends requests to a Service's address for a while, and as many to its pod through
// the node port of its own node, and watches the owner. The function that it returns waits
// for the end and checks that none failed and the owner did not change.
func (s *scenario) steady(service, address string, length time.Duration) (done func()) {
	s.t.Helper()
	svc, err := lab.Service(s.t.Context(), s.name, service)
	if err != nil {
		s.t.Fatal(err)
	}
	var probes []*harness.Probe
	for _, url := range []string{harness.URL(address), fmt.Sprintf("http://%s:%d/", controlPlaneAddress, svc.Spec.Ports[0].NodePort)} {
		p, err := lab.StartStream(s.t.Context(), "mypc", url, steadyRate, length)
		if err != nil {
			s.t.Fatal(err)
		}
		probes = append(probes, p)
	}
	w := l2.NewWatch(s.t.Context(), lab, []string{address})
	return func() {
		s.t.Helper()
		defer w.Stop()
		var reports []*harness.Report
		for _, p := range probes {
			r, err := p.Wait(s.t.Context())
			if err != nil {
				s.t.Fatal(err)
			}
			reports = append(reports, r)
		}
		o := l2.Outcome{Name: "controller away", Node: "all nodes", Reports: reports[:1], Plain: reports[1], Changes: w.Stop(), Held: &harness.HoldReport{}}
		stall := o.Stall()
		s.t.Logf("%s; the machine stood still for %s", &o, stall)
		allowed := 0
		if stall > calm { // it cannot be told what became of the requests of that time
			allowed = int(steadyRate * stall.Seconds())
		}
		if o.Lost() > allowed || stall <= calm && len(o.Changes) > 0 {
			s.t.Errorf("%s, owner changes %v; want neither failures nor changes:%s", &o, o.Changes, o.Errors())
		}
	}
}

// scaleController sets the number of controllers and waits for them.
func (s *scenario) scaleController(n int) {
	s.t.Helper()
	s.kubectl("scale", "-n", harness.Namespace, "deployment/fairlead-controller", fmt.Sprintf("--replicas=%d", n))
	s.eventually(patience, func(ctx context.Context) error {
		pods, err := lab.Pods(ctx, harness.Namespace, "app.kubernetes.io/component=controller")
		if err != nil {
			return err
		}
		running := 0
		for i := range pods {
			if pods[i].DeletionTimestamp == nil && pods[i].Status.Phase == corev1.PodRunning {
				running++
			}
		}
		if running != n || (n == 0 && len(pods) > 0) {
			return fmt.Errorf("%d of %d controllers run, %d pods", running, n, len(pods))
		}
		return nil
	})
}

// TestControllerKilled is the short form of the soak: SIGKILL while Services come and go.
func TestControllerKilled(t *testing.T) {
	rep, err := churn.Run(t.Context(), lab, churn.Config{Kills: 1, Services: 20, Seed: 1, Progress: t.Output()})
	if err != nil {
		dump(t.Context(), t)
		t.Fatal(err)
	}
	t.Logf("%d created, %d deleted; books right %s after the last kill", rep.Created, rep.Deleted, rep.Settled)
}
