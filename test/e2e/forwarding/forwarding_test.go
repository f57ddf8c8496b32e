// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package forwarding

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/plane"
)

// patience bounds what takes the controller a second or two, on a busy machine.
const patience = 40 * time.Second

const objects = `
apiVersion: fairlead.dev/v1alpha1
kind: IPAddressPool
metadata: {name: p}
spec: {addresses: [192.0.2.0/24]}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
---
apiVersion: fairlead.dev/v1alpha1
kind: NodeAgent
metadata: {name: n1}
---
apiVersion: fairlead.dev/v1alpha1
kind: NodeAgent
metadata: {name: n2}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80}]}
`

const grants = `
apiVersion: fairlead.dev/v1alpha1
kind: ExternalIPPolicy
metadata: {name: default}
spec:
  grants: [{namespaces: [default], ranges: %s}]
`

const external = `
apiVersion: v1
kind: Service
metadata: {name: external}
spec: {selector: {app: web}, externalIPs: [198.51.100.1, 198.51.100.9], ports: [{port: 80}]}
`

// bed is a plane with a controller.
type bed struct {
	*plane.Plane

	t          *testing.T
	controller *plane.Process
	lives      int
}

func TestForwarding(t *testing.T) {
	runtime.LockOSThread() // servers die with the thread that started them
	root, err := filepath.Abs(filepath.Join("..", "..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	p, err := plane.Start(t.Context(), plane.Options{Root: root, Dir: dir, Audit: true})
	if p != nil {
		t.Cleanup(func() { _ = p.Stop() })
	}
	t.Cleanup(func() { showLogs(t, dir) })
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{Plane: p, t: t}
	b.must(p.BuildController(t.Context()))
	// An earlier release's records: everything is kube-proxy's.
	b.restart("dataPlane: kube-proxy")
	b.kubectl(objects, "apply", "-f", "-")
	for _, n := range []string{"n1", "n2"} {
		b.status("node", n, map[string]any{"conditions": []any{map[string]any{"type": "Ready", "status": "True"}}})
		b.agent(n, "True", "Running", map[string]any{})
	}
	b.eventually(b.web("kube-proxy", "VIP", "LeftToKubeProxy"))

	b.upgrade()
	b.disturb()
	b.relapse()
	b.retreat()
	b.external()
}

// showLogs prints what the controllers said, of a test that failed.
func showLogs(t *testing.T, dir string) {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(dir, "controller-?.log"))
	if err != nil || !t.Failed() {
		return
	}
	for _, l := range logs {
		if text, err := os.ReadFile(l); err == nil {
			t.Logf("%s:\n%s", filepath.Base(l), text[max(0, len(text)-8000):])
		}
	}
}

// upgrade gives the record to IPVS; the address stays, and ipMode follows the last node.
func (b *bed) upgrade() {
	before, from := b.service(b.t.Context(), "web").Status.LoadBalancer.Ingress[0].IP, b.audited()
	b.restart("scheduler: mh,mh-port")
	b.eventually(b.web("ipvs", "VIP", "NotEveryNode"))
	r := b.record("web")
	if r.Spec.Scheduler != "mh" || strings.Join(r.Spec.SchedulerFlags, " ") != "port" {
		b.t.Errorf("scheduler %s %v", r.Spec.Scheduler, r.Spec.SchedulerFlags)
	}
	b.agent("n1", "True", "Running", b.programmed())
	b.eventually(b.web("ipvs", "VIP", "NotEveryNode"))
	b.agent("n2", "True", "Running", b.programmed())
	b.eventually(b.web("ipvs", "Proxy", "Forwarded"))
	if got := b.service(b.t.Context(), "web").Status.LoadBalancer.Ingress[0].IP; got != before {
		b.t.Errorf("the address moved from %s to %s", before, got)
	}
	b.wantWrites("an upgrade", from, map[string]int{
		"services/status": 1, "loadbalancers.fairlead.dev": 1, "ipclaims.fairlead.dev": 0, "loadbalancers.fairlead.dev/status": 3,
	})
}

// disturb is a rollout, a leave and another leader: nothing is written.
func (b *bed) disturb() {
	from := b.audited()
	for _, n := range []string{"n1", "n2"} {
		b.agent(n, "False", "Restarting", b.programmed())
	}
	b.restart("scheduler: mh,mh-port")
	b.agent("n1", "True", "Running", map[string]any{"forwarding": "ipvs", "revision": "1"})
	b.agent("n2", "False", "Leaving", map[string]any{"forwarding": "kube-proxy", "reason": "Leaving"})
	b.stays(5*time.Second, b.web("ipvs", "Proxy", "Forwarded"))
	for _, n := range []string{"n1", "n2"} {
		b.agent(n, "True", "Running", b.programmed())
	}
	b.stays(3*time.Second, b.web("ipvs", "Proxy", "Forwarded"))
	b.wantWrites("a rollout", from, map[string]int{"services/status": 0, "loadbalancers.fairlead.dev": 0, "loadbalancers.fairlead.dev/status": 0})
}

// relapse is a node that cannot, and then can again.
func (b *bed) relapse() {
	from := b.audited()
	b.agent("n2", "True", "Running", map[string]any{"forwarding": "kube-proxy", "reason": "KubeProxyExcludeCIDRs", "message": "set ipvs.excludeCIDRs"})
	b.eventually(b.web("ipvs", "VIP", "KubeProxyExcludeCIDRs"))
	b.agent("n2", "True", "Running", b.programmed())
	b.stays(5*time.Second, b.web("ipvs", "VIP", "KubeProxyExcludeCIDRs"))
	b.eventually(b.web("ipvs", "Proxy", "Forwarded"))
	b.wantWrites("a relapse", from, map[string]int{"services/status": 2, "loadbalancers.fairlead.dev": 0, "loadbalancers.fairlead.dev/status": 2})
}

// retreat goes to kube-proxy by the annotation: the status first.
func (b *bed) retreat() {
	b.kubectl("", "annotate", "service", "web", "fairlead.dev/data-plane=kube-proxy")
	b.eventually(b.web("ipvs", "VIP", ""))
	b.stays(3*time.Second, b.web("ipvs", "VIP", ""))
	b.eventually(b.web("kube-proxy", "VIP", "LeftToKubeProxy"))
	b.kubectl("", "annotate", "service", "web", "fairlead.dev/data-plane-")
	b.agent("n1", "True", "Running", b.programmed())
	b.agent("n2", "True", "Running", b.programmed())
	b.eventually(b.web("ipvs", "Proxy", "Forwarded"))
}

// external has a node's address and a free one granted, and withdrawn.
func (b *bed) external() {
	b.kubectl(fmt.Sprintf(grants, "[198.51.100.0/24]"), "apply", "--server-side", "--force-conflicts", "-f", "-")
	b.status("node", "n1", map[string]any{"addresses": []any{map[string]any{"type": "InternalIP", "address": "198.51.100.1"}}})
	b.eventually(func(ctx context.Context) error { // the policy's parameters are known a moment later
		_, err := b.Kubectl(ctx, external, "apply", "-f", "-")
		return err
	})
	holds := func(onNodes, free string) func(context.Context) error {
		return func(ctx context.Context) error {
			r, err := b.get(ctx, "external")
			if err != nil {
				return err
			}
			var addrs []string
			for _, a := range r.Spec.Addresses {
				addrs = append(addrs, a.Address+a.Pool)
			}
			if got := strings.Join(r.Spec.NodeAddresses, " "); got != onNodes || strings.Join(addrs, " ") != free {
				return fmt.Errorf("of nodes %q, free %q", got, addrs)
			}
			return nil
		}
	}
	b.eventually(holds("198.51.100.1", "198.51.100.9"))
	b.kubectl(fmt.Sprintf(grants, "[198.51.100.1/32]"), "apply", "--server-side", "--force-conflicts", "-f", "-")
	b.eventually(holds("198.51.100.1", ""))
	b.eventually(func(ctx context.Context) error { // the claim is gone once nobody can answer
		if out, err := b.Kubectl(ctx, "", "get", "ipclaims", "198.51.100.9", "--ignore-not-found", "-o", "name"); err != nil || out != "" {
			return fmt.Errorf("claim %q: %w", out, errors.Join(err, errors.New("still there")))
		}
		return nil
	})
	b.kubectl("", "delete", "service", "external")
	b.eventually(func(ctx context.Context) error {
		if _, err := b.get(ctx, "external"); err == nil {
			return errors.New("the record outlives its Service")
		}
		return nil
	})
}

// web checks record, ipMode and the reason of the Forwarded condition, where one is given.
func (b *bed) web(forwarding v1alpha1.Forwarding, mode corev1.LoadBalancerIPMode, why string) func(context.Context) error {
	return func(ctx context.Context) error {
		r, err := b.get(ctx, "web")
		if err != nil {
			return err
		}
		got := b.service(ctx, "web").Status.LoadBalancer.Ingress
		c := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionForwarded)
		if r.Spec.Forwarding != forwarding || len(got) != 1 || *got[0].IPMode != mode || c == nil || why != "" && c.Reason != why {
			return fmt.Errorf("want %s, %s, %s: forwarding %s, status %+v, condition %+v", forwarding, mode, why, r.Spec.Forwarding, got, c)
		}
		return nil
	}
}

// programmed is a node's data plane with all that there is.
func (b *bed) programmed() map[string]any {
	return map[string]any{"forwarding": "ipvs", "revision": b.record("web").ResourceVersion}
}

// agent is a NodeAgent's status.
func (b *bed) agent(name, ready, why string, dataPlane map[string]any) {
	b.t.Helper()
	all := map[string]any{"forwarding": nil, "reason": nil, "message": nil, "revision": nil}
	maps.Copy(all, dataPlane)
	b.status("nodeagent", name, map[string]any{
		"dataPlane": all,
		"conditions": []any{map[string]any{
			"type": "Ready", "status": ready, "reason": why, "message": "", "lastTransitionTime": metav1.Now().UTC().Format(time.RFC3339),
		}},
	})
}

func (b *bed) status(kind, name string, status map[string]any) {
	b.t.Helper()
	patch, err := json.Marshal(map[string]any{"status": status})
	b.must(err)
	b.kubectl("", "patch", kind, name, "--subresource=status", "--type=merge", "-p", string(patch))
}

// restart ends the controller, if one runs, and starts one with a configuration.
func (b *bed) restart(config string) {
	b.t.Helper()
	if b.controller != nil {
		b.must(b.controller.Stop())
	}
	b.lives++
	file := filepath.Join(b.t.TempDir(), "cloud-config.yaml")
	b.must(os.WriteFile(file, []byte("apiVersion: fairlead.dev/v1alpha1\nkind: CloudConfig\n"+config+"\n"), 0o600))
	var err error
	b.controller, err = b.StartController(b.t.Context(), plane.ControllerOptions{
		Name: fmt.Sprintf("controller-%d", b.lives), Args: []string{"--cloud-config=" + file, "--leader-elect=false"},
	})
	b.must(err)
}

func (b *bed) get(ctx context.Context, name string) (*v1alpha1.LoadBalancer, error) {
	out, err := b.Kubectl(ctx, "", "get", "loadbalancers.fairlead.dev", name, "-o", "json")
	if err != nil {
		return nil, err
	}
	r := new(v1alpha1.LoadBalancer)
	return r, json.Unmarshal([]byte(out), r)
}

func (b *bed) record(name string) *v1alpha1.LoadBalancer {
	b.t.Helper()
	r, err := b.get(b.t.Context(), name)
	b.must(err)
	return r
}

func (b *bed) service(ctx context.Context, name string) *corev1.Service {
	b.t.Helper()
	s, err := b.Client().CoreV1().Services("default").Get(ctx, name, metav1.GetOptions{})
	b.must(err)
	return s
}

// audited is the end of the audit log.
func (b *bed) audited() int64 {
	b.t.Helper()
	_, end, err := b.Requests(0)
	b.must(err)
	return end
}

// wantWrites compares the controller's successful writes since, at most so many of each kind.
func (b *bed) wantWrites(what string, from int64, most map[string]int) {
	b.t.Helper()
	requests, _, err := b.Requests(from)
	b.must(err)
	got := map[string]int{}
	for _, r := range requests {
		if strings.HasSuffix(r.User, ":fairlead-controller") && r.Code < 300 && r.Verb != "get" && r.Verb != "list" {
			got[r.Resource]++
		}
	}
	for resource, n := range most {
		if got[resource] > n {
			b.t.Errorf("%s: %d writes of %s, want at most %d", what, got[resource], resource, n)
		}
	}
	b.t.Logf("%s: writes %v", what, got)
}

func (b *bed) kubectl(stdin string, args ...string) {
	b.t.Helper()
	_, err := b.Kubectl(b.t.Context(), stdin, args...)
	b.must(err)
}

func (b *bed) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) eventually(try func(context.Context) error) {
	b.t.Helper()
	if _, err := harness.Eventually(b.t.Context(), patience, try); err != nil {
		b.t.Fatal(err)
	}
}

// stays checks something again and again.
func (b *bed) stays(d time.Duration, try func(context.Context) error) {
	b.t.Helper()
	end := time.Now().Add(d)
	for time.Now().Before(end) {
		b.must(try(b.t.Context()))
		select {
		case <-b.t.Context().Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}
