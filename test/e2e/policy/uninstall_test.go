// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package policy

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/fairlead-lb/fairlead/test/harness"
)

// finalizedService is a LoadBalancer as its controller leaves it.
func finalizedService(name, class, finalizer, ip string) (manifest, status string) {
	spec := "{type: LoadBalancer, selector: {app: web}, ports: [{port: 80}]"
	if class != "" {
		spec += ", loadBalancerClass: " + class
	}
	manifest = "apiVersion: v1\nkind: Service\nmetadata: {name: " + name + ", namespace: default, finalizers: [" + finalizer + "]}\nspec: " + spec + "}\n"
	return manifest, "{status: {loadBalancer: {ingress: [{ip: " + ip + ", ipMode: Proxy}]}}}"
}

// TestUninstallKeepsServices takes Fairlead off a cluster whose controllers are gone
// already: every Service that it served must be free of it, and no other one touched. (That
// the script deletes Services with a running controller is package e2e's.) Not parallel:
// it replaces the shared API server while it runs.
func TestUninstallKeepsServices(t *testing.T) {
	s := ownServer(t)
	ctx := t.Context()
	const stock, own = "service.kubernetes.io/load-balancer-cleanup", "fairlead.dev/load-balancer"
	for _, svc := range []struct{ name, class, finalizer, ip string }{
		{"classless", "", stock, "192.0.2.1"},
		{"classed", "fairlead.dev/lb", own, "192.0.2.2"},
		{"formerly-classed", "example.com/lb", own, "192.0.2.3"},
		{"foreign", "example.com/lb", "example.com/lb", "192.0.2.4"},
	} {
		manifest, status := finalizedService(svc.name, svc.class, svc.finalizer, svc.ip)
		// A policy's parameters are known to the API server a moment after it is ready.
		if _, err := harness.Eventually(ctx, 10*time.Second, func(ctx context.Context) error {
			return administrator().create(ctx, manifest)
		}); err != nil {
			t.Fatal(err)
		}
		check(t, administrator().patch(ctx, manifest, status, "status"), "")
	}
	check(t, administrator().create(ctx, claimManifest("203.0.113.1", "Retained")), "")
	for kind, spec := range map[string]string{
		"BGPPeer": "myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.254, passwordSecret: {name: router}", "BGPAdvertisement": "peers: [routing]", "BFDProfile": "", "Community": "",
	} {
		check(t, administrator().create(ctx, manifestOf(kind, "routing", spec)), "")
		check(t, controller().create(ctx, strings.Replace(manifestOf(kind, "copied", spec), "name: copied", "name: copied, labels: {fairlead.dev/source: metallb.io}", 1)), "")
	}
	check(t, administrator().create(ctx, "apiVersion: v1\nkind: Secret\nmetadata: {name: router, namespace: fairlead-system}\ntype: kubernetes.io/basic-auth\nstringData: {password: p}\n"), "")
	check(t, administrator().create(ctx, strings.SplitAfter(grants, "spec:")[0]+" {}\n"), "")
	for _, w := range []string{"daemonset/fairlead-node-agent", "deployment/fairlead-controller"} {
		// Nobody here ends what a deletion in the foreground waits for.
		if _, err := s.run(ctx, "delete", "-n", "fairlead-system", w, "--cascade=background"); err != nil {
			t.Fatal(err)
		}
	}

	out, err := s.uninstall(ctx)
	if err == nil || !strings.HasSuffix(strings.TrimSpace(out), "default classed\ndefault classless\ndefault formerly-classed") {
		t.Errorf("without a choice: %v: %s; want the three Services named", err, out)
	}
	// With classless: false those without a class are somebody else's, finalizer and all.
	if _, err := s.run(ctx, "patch", "configmap", "-n", "fairlead-system", "fairlead-cloud-config", "--type=merge",
		"-p", `{"data":{"cloud-config.yaml":"#services: {classless: true}\nservices:\n  classless: \"false\" # so\n"}}`); err != nil {
		t.Fatal(err)
	}
	// kube-proxy takes over before the agents end.
	s.keepServices(t, "kube-proxy takes over Service default/classed\n", "default classless", `classed:: classless:["`+stock+`"]:192.0.2.1 foreign:["example.com/lb"]:192.0.2.4 formerly-classed:: kubernetes:: `)
	// The configuration goes with its namespace, where somebody empties those; called again
	// without it the script does not guess whose the Services without a class are.
	if _, err := s.run(ctx, "delete", "configmap", "-n", "fairlead-system", "fairlead-cloud-config"); err != nil {
		t.Fatal(err)
	}
	if out, err := s.uninstall(t.Context(), "--services", "keep"); err == nil || !strings.Contains(out, "set CLASSLESS=true") {
		t.Errorf("uninstall without a configuration: %v:\n%s", err, out)
	}
	t.Setenv("CLASSLESS", "true")
	s.keepServices(t, "kube-proxy takes over Service default/classless\n", "", `classed:: classless:: foreign:["example.com/lb"]:192.0.2.4 formerly-classed:: kubernetes:: `)
}

// keepServices uninstalls and compares what it says besides, and finalizers and addresses
// of the Services afterwards.
func (s *server) keepServices(t *testing.T, before, says, wants string) {
	t.Helper()
	out, err := s.uninstall(t.Context(), "--services", "keep")
	if err != nil || !strings.Contains(out, "no finalizer, object or permission of Fairlead is left") || !strings.Contains(out, says) {
		t.Errorf("uninstall: %v:\n%s", err, out)
	}
	first, _, stopped := strings.Cut(out, "stopping the node agents")
	if !stopped || !strings.Contains(first, before) {
		t.Errorf("before it stopped the node agents it did not say %q:\n%s", before, out)
	}
	left, err := s.run(t.Context(), "get", "services", "-o", "jsonpath={range .items[*]}{.metadata.name}:{.metadata.finalizers}:{.status.loadBalancer.ingress[*].ip} {end}")
	if err != nil || left != wants {
		t.Errorf("Services afterwards: %v\n%s, want\n%s", err, left, wants)
	}
}

// ownServer starts another API server with the base and makes it the shared one until the
// end of the test.
func ownServer(t *testing.T) *server {
	t.Helper()
	shared := cluster
	s, err := startServer(t.Context(), t.TempDir())
	if s != nil {
		t.Cleanup(s.stop)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cluster = shared })
	if err := s.install(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// uninstall runs deploy/uninstall.sh, and meanwhile ends the namespace as its controller would.
func (s *server) uninstall(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	done := make(chan struct{})
	defer close(done)
	wg.Go(func() { s.endNamespace(ctx, done) })
	cmd := exec.CommandContext(ctx, filepath.Join("..", "..", "..", "deploy", "uninstall.sh"), args...)
	cmd.Env = append(cmd.Environ(), "KUBECTL="+strings.Join(append([]string{s.kubectl}, s.flags()...), " "))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// endNamespace takes the finalizer off fairlead-system once it is being deleted.
func (s *server) endNamespace(ctx context.Context, done <-chan struct{}) {
	c, err := kubernetes.NewForConfig(s.config())
	for err == nil && wait(ctx, 100*time.Millisecond) == nil {
		select {
		case <-done:
			return
		default:
		}
		ns, getErr := c.CoreV1().Namespaces().Get(ctx, "fairlead-system", metav1.GetOptions{})
		if getErr != nil {
			return
		}
		if ns.DeletionTimestamp != nil {
			ns.Spec.Finalizers = nil
			_, err = c.CoreV1().Namespaces().Finalize(ctx, ns, metav1.UpdateOptions{})
		}
	}
}
