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
	"github.com/fairlead-lb/fairlead/test/bench/failover"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/soak/churn"
)

// blackoutLimit is what one power cut may cost here; the median of many is test/bench's.
const blackoutLimit = 5 * time.Second

// TestPowerCut cuts the power of the announcing node.
func TestPowerCut(t *testing.T) {
	res, err := failover.Measure(t.Context(), lab, failover.Config{Runs: 1, Probe: 7 * time.Second, Progress: t.Output()})
	if err != nil {
		dump(t.Context(), t)
		t.Fatal(err)
	}
	if limit := float64(blackoutLimit.Milliseconds()); res.MaxMs > limit {
		t.Errorf("blackouts up to %.0f ms, want at most %.0f", res.MaxMs, limit)
	}
	for i, r := range res.Runs {
		if r.MACs != 1 {
			t.Errorf("run %d: %d MACs answer afterwards, want 1", i+1, r.MACs)
		}
	}
}

// TestAPIServerAway stops the API server for 20 seconds: addresses go on answering, and a
// power cut in that time is survived as well.
func TestAPIServerAway(t *testing.T) {
	s := newScenario(t, "apiaway", "172.20.251.120/32")
	s.apply(s.podManifest("web1", "control-plane") + "---\n" + s.serviceManifest("web", "", ""))
	a := s.address("web")
	owner := s.owner(a)
	s.answers(a)

	if err := lab.Pause(t.Context(), "apiserver"); err != nil {
		t.Fatal(err)
	}
	paused := true
	t.Cleanup(func() {
		if paused {
			_ = lab.Resume(context.WithoutCancel(t.Context()), "apiserver")
		}
	})
	calm := s.probe(a, 10*time.Second, func() {})
	t.Logf("API server away: %s", calm)
	if calm.Failed > 0 {
		t.Errorf("%d of %d requests failed with only the API server away", calm.Failed, calm.Sent)
	}
	var cut time.Time
	report := s.probe(a, 9*time.Second, func() {
		var err error
		if cut, err = lab.Kill(t.Context(), owner); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := lab.OneMAC(t.Context(), "mypc", a); err != nil {
		t.Error(err)
	}
	if err := lab.Resume(t.Context(), "apiserver"); err != nil {
		t.Fatal(err)
	}
	paused = false
	if err := lab.Start(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
	blackout, err := report.Blackout(cut)
	if limit := float64(blackoutLimit.Milliseconds()); err != nil || blackout > limit {
		t.Errorf("blackout %.0f ms, %v; want an answer within %.0f", blackout, err, limit)
	}
	t.Logf("API server away and %s cut: %s", owner, report)
	s.wholeCluster()
	if now := s.owner(a); now == owner {
		t.Errorf("%s announces again after its return, want no fail-back", now)
	}
}

// TestControllerAway deletes, creates and replaces Services while no controller runs.
func TestControllerAway(t *testing.T) {
	s := newScenario(t, "ccmaway", "172.20.251.130-172.20.251.132")
	s.apply(s.podManifest("web1", "control-plane") + "---\n" + s.serviceManifest("stays", "", "") + "---\n" + s.serviceManifest("goes", "", "") +
		"---\n" + s.serviceManifest("restored", "", ""))
	stays, goes, restored := s.address("stays"), s.address("goes"), s.address("restored")
	s.owner(stays)
	s.answers(stays)
	s.scaleController(0)
	t.Cleanup(func() { cleanUp(t, "scale", "-n", harness.Namespace, "deployment/fairlead-controller", "--replicas=2") })
	s.kubectl("delete", "svc", "-n", s.name, "goes", "--wait=false")
	s.apply(s.serviceManifest("comes", "", ""))
	toldOfKind := s.unreadKind()
	// As a restore from a backup does: another UID, no status, and the claim still there.
	s.patch("svc/restored", `{"metadata":{"finalizers":null}}`)
	s.kubectl("delete", "svc", "-n", s.name, "restored", "--timeout=10s")
	s.apply(s.serviceManifest("restored", "", ""))
	svc, err := lab.Service(t.Context(), s.name, "goes")
	if err != nil {
		t.Fatalf("the Service went without its controller: %v", err)
	}
	if len(svc.Finalizers) == 0 {
		t.Error("the Service being deleted has no finalizer")
	}
	s.answers(stays)
	s.scaleController(2)
	s.eventually(60*time.Second, func(ctx context.Context) error {
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

// scaleController sets the number of controllers and waits for them.
func (s *scenario) scaleController(n int) {
	s.t.Helper()
	s.kubectl("scale", "-n", harness.Namespace, "deployment/fairlead-controller", fmt.Sprintf("--replicas=%d", n))
	s.eventually(60*time.Second, func(ctx context.Context) error {
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
