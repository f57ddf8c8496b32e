// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/harness"
)

// TestAdoption replaces a Service behind the controller's back, as a restore from a backup
// does: it comes back with another UID while its claim is still Bound.
func TestAdoption(t *testing.T) {
	const lower, a = "172.20.249.150", "172.20.249.151"
	s := newScenario(t, "adoption", lower+"-"+a)
	s.apply(s.podManifest("web1", "control-plane"))
	s.create(service{name: "first"})
	s.has("first", lower)
	s.create(service{name: "web"})
	s.has("web", a)
	s.owner(a)
	s.answers(a)
	before := s.tenants(a, v1alpha1.ClaimBound, "web").Spec.Services[0].UID
	s.kubectl("delete", "svc", "-n", s.name, "first", "--timeout=60s")
	s.free(lower)

	if err := lab.Pause(t.Context(), "controller"); err != nil {
		t.Fatal(err)
	}
	paused := true
	resume := func() {
		if paused {
			paused = false
			if err := lab.Resume(context.WithoutCancel(t.Context()), "controller"); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(resume)
	report := s.probe(a, 6*time.Second, func() {
		s.patch("svc/web", `{"metadata":{"finalizers":null}}`)
		s.kubectl("delete", "svc", "-n", s.name, "web", "--timeout=60s")
		s.create(service{name: "web"})
		resume()
	})
	t.Logf("the Service was replaced: %s", report)
	s.has("web", a)
	s.rule("web", a, v1alpha1.RuleRetained)
	claim := s.tenants(a, v1alpha1.ClaimBound, "web")
	if now := claim.Spec.Services[0].UID; now == before {
		t.Errorf("the claim still names the deleted Service's UID %s", now)
	}
	s.owner(a)
	s.answers(a)
}

// badCloudConfig starts a controller with a configuration that it cannot use.
func badCloudConfig(s *scenario) {
	t := s.t
	s.begin("badconfig", "")
	image := strings.TrimSpace(s.kubectl("get", "deployment", "-n", harness.Namespace, "fairlead-controller",
		"-o", "jsonpath={.spec.template.spec.containers[0].image}"))
	s.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bad, namespace: " + s.name + "}\ndata:\n  cloud-config.yaml: |\n" +
		"    apiVersion: fairlead.dev/v1alpha1\n    kind: CloudConfig\n    services: {klass: example.com/a}\n    metallb: {mirror: Sometimes}\n" +
		"---\napiVersion: v1\nkind: Pod\nmetadata: {name: controller, namespace: " + s.name + "}\nspec:\n" +
		"  nodeName: worker\n  restartPolicy: Never\n  securityContext: {runAsNonRoot: true, runAsUser: 65532}\n" +
		"  containers: [{name: c, image: '" + image + "', args: [--cloud-provider=fairlead, --cloud-config=/etc/fairlead/cloud-config.yaml],\n" +
		"    volumeMounts: [{name: config, mountPath: /etc/fairlead}]}]\n  volumes: [{name: config, configMap: {name: bad}}]\n")
	s.eventually(patience, func(ctx context.Context) error {
		pod, err := harness.Get[*corev1.Pod](ctx, lab, "pod", "-n", s.name, "controller")
		if err == nil && pod.Status.Phase != corev1.PodFailed {
			err = fmt.Errorf("the controller's pod is %s, want Failed", pod.Status.Phase)
		}
		return err
	})
	log := s.kubectl("logs", "-n", s.name, "controller")
	for _, want := range []string{"cloud-config.yaml", "services.klass", "metallb.mirror"} {
		if !strings.Contains(log, want) {
			t.Errorf("the last words do not name %q:\n%s", want, log)
		}
	}
}

// reinstall applies Fairlead's manifests to a cluster without it and waits until it runs.
func reinstall(ctx context.Context) error {
	if _, err := lab.Kubectl(ctx, "apply", "--server-side", "-k", "deploy/kustomize/overlays/lab"); err != nil {
		return err
	}
	if _, err := lab.Kubectl(ctx, "rollout", "status", "-n", harness.Namespace, "deployment/fairlead-controller", "--timeout=180s"); err != nil {
		return err
	}
	_, err := harness.Eventually(ctx, time.Minute, func(ctx context.Context) error {
		return errors.Join(lab.NodesReady(ctx, allNodes), lab.AgentsReady(ctx, allNodes))
	})
	return err
}
