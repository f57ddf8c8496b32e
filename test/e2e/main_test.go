// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/harness"
)

// lab is the cluster that all tests share, one after another.
var lab *harness.Lab

// sideBySide is how many scenarios of one test run at a time: they mostly wait.
const sideBySide = "8"

func TestMain(m *testing.M) {
	// A default: the flag -parallel still decides.
	if err := flag.Set("test.parallel", sideBySide); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	err := withLab(func(l *harness.Lab) { lab = l }, m.Run)
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const (
	// allNodes is how many nodes the lab has.
	allNodes = 4
	// patience is how long a test waits for what has to happen. It is no figure of how
	// quick it should be, those are test/bench's: a machine that stands still for some
	// seconds, or takes ten times as long, must not fail a test of what happens.
	patience = time.Minute
)

// scenario is one test's namespace with a pool of its own.
type scenario struct {
	t    *testing.T
	name string
}

// newScenario makes a namespace and, unless addresses is empty, a pool and an
// advertisement for that namespace only, and waits until both are in use. Everything goes
// at the end of the test, which then waits until the addresses are free again.
func newScenario(t *testing.T, name, addresses string) *scenario {
	t.Helper()
	s := &scenario{t: t}
	s.begin(name, addresses)
	return s
}

// begin makes what newScenario says.
func (s *scenario) begin(name, addresses string) {
	s.t.Helper()
	s.name = name
	manifest := "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + name + "}\n"
	if addresses != "" {
		manifest += "---\n" + poolManifest(name, addresses, name) + "---\n" + adManifest(name)
	}
	s.t.Cleanup(func() { s.clean(manifest) })
	s.apply(manifest)
	if addresses != "" {
		s.eventually(patience, func(ctx context.Context) error {
			_, err := lab.Kubectl(ctx, "wait", "--for=condition=Ready", "--timeout=1s",
				"ipaddresspool.fairlead.dev/"+name, "l2advertisement.fairlead.dev/"+name)
			return err
		})
	}
}

// poolManifest is a fairlead.dev pool that serves one namespace.
func poolManifest(name, addresses, namespace string) string {
	return "apiVersion: fairlead.dev/v1alpha1\nkind: IPAddressPool\nmetadata: {name: " + name + "}\n" +
		"spec:\n  addresses: [" + addresses + "]\n  serviceAllocation: {namespaces: [" + namespace + "]}\n"
}

// adManifest announces the pool of the same name by layer 2.
func adManifest(name string) string {
	return "apiVersion: fairlead.dev/v1alpha1\nkind: L2Advertisement\nmetadata: {name: " + name + "}\n" +
		"spec: {ipAddressPools: [" + name + "]}\n"
}

// serviceManifest is a Service of type LoadBalancer in front of the scenario's pods; extra
// are more lines of its metadata or spec as "annotations: {…}" and "externalTrafficPolicy: Local".
func (s *scenario) serviceManifest(name, annotations, spec string) string {
	return "apiVersion: v1\nkind: Service\nmetadata:\n  name: " + name + "\n  namespace: " + s.name +
		"\n  annotations: {" + annotations + "}\nspec:\n  type: LoadBalancer\n  selector: {app: web}\n" +
		"  ports: [{port: 80, targetPort: 80}]\n  " + spec + "\n"
}

// podManifest is a web server on a node.
func (s *scenario) podManifest(name, node string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + ", namespace: " + s.name + ", labels: {app: web}}\n" +
		"spec:\n  nodeName: " + node + "\n  terminationGracePeriodSeconds: 0\n" +
		"  containers: [{name: web, image: traefik/whoami}]\n"
}

// clean removes the scenario; when the test failed it first shows the state of things.
func (s *scenario) clean(manifest string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), 3*patience)
	defer cancel()
	if s.t.Failed() {
		dump(ctx, s.t)
	}
	// Services first: their addresses are released while pool and advertisement exist.
	_, err := lab.Kubectl(ctx, "delete", "service", "--all", "-n", s.name, "--ignore-not-found", "--timeout=60s")
	if err != nil {
		s.t.Errorf("clean up: %v", err)
	}
	_, err = lab.KubectlIn(ctx, manifest, "delete", "-f", "-", "--ignore-not-found", "--timeout=60s", "--wait=false")
	if err != nil {
		s.t.Errorf("clean up: %v", err)
	}
	if err := giveUpRetained(ctx, s.name); err != nil {
		s.t.Errorf("clean up: %v", err)
	}
	if _, err = harness.Eventually(ctx, patience, s.noClaims); err != nil {
		s.t.Errorf("clean up: %v", err)
	}
}

// giveUpRetained deletes the addresses that are kept for a namespace's Services.
func giveUpRetained(ctx context.Context, namespace string) error {
	claims, err := lab.Claims(ctx)
	if err != nil {
		return err
	}
	args := []string{"delete", "ipclaims.fairlead.dev", "--ignore-not-found"}
	none := len(args)
	for i := range claims {
		c := &claims[i]
		if c.Spec.Phase == v1alpha1.ClaimRetained && len(c.Spec.Services) > 0 && c.Spec.Services[0].Namespace == namespace {
			args = append(args, c.Name)
		}
	}
	if len(args) == none {
		return nil
	}
	_, err = lab.Kubectl(ctx, args...)
	return err
}

// noClaims returns nil when no claim names a Service of the scenario.
func (s *scenario) noClaims(ctx context.Context) error {
	claims, err := lab.Claims(ctx)
	if err != nil {
		return err
	}
	for i := range claims {
		for _, svc := range claims[i].Spec.Services {
			if svc.Namespace == s.name {
				return fmt.Errorf("claim %s (%s) still names %s/%s", claims[i].Name, claims[i].Spec.Phase, svc.Namespace, svc.Name)
			}
		}
	}
	return nil
}

// dump shows what a person would look at first.
func dump(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, args := range [][]string{
		{"get", "nodes,nodeagents"},
		{"get", "loadbalancers,ipclaims,ipaddresspools,l2advertisements,svc", "-A", "-o", "wide"},
		{"get", "pods", "-A", "-o", "wide"},
		{"get", "events", "-A", "--field-selector", "type!=Normal"},
		{"logs", "-n", harness.Namespace, "-l", "app.kubernetes.io/component=controller", "--tail=25", "--prefix"},
		{"logs", "-n", harness.Namespace, "-l", "app.kubernetes.io/component=node-agent", "--tail=15", "--prefix"},
	} {
		res, err := lab.Kubectl(ctx, args...)
		if err != nil {
			t.Logf("kubectl %s: %v", strings.Join(args, " "), err)
			continue
		}
		t.Logf("kubectl %s\n%s", strings.Join(args, " "), res.Stdout)
	}
}

// apply applies a manifest or ends the test.
func (s *scenario) apply(manifest string) {
	s.t.Helper()
	if _, err := lab.Apply(s.t.Context(), manifest); err != nil {
		s.t.Fatal(err)
	}
}

// kubectl runs a command or ends the test.
func (s *scenario) kubectl(args ...string) string {
	s.t.Helper()
	res, err := lab.Kubectl(s.t.Context(), args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return res.Stdout
}

// eventually waits for check or ends the test, and returns how long it took.
func (s *scenario) eventually(timeout time.Duration, check func(context.Context) error) time.Duration {
	s.t.Helper()
	took, err := harness.Eventually(s.t.Context(), timeout, check)
	if err != nil {
		s.t.Fatal(err)
	}
	return took
}

// address waits until a Service of the scenario has its one address.
func (s *scenario) address(service string) string {
	s.t.Helper()
	var a string
	s.eventually(patience, func(ctx context.Context) (err error) {
		a, err = lab.Address(ctx, s.name, service)
		return err
	})
	return a
}

// answers waits until an address serves a request from mypc, and returns the body.
func (s *scenario) answers(address string) string {
	s.t.Helper()
	var body string
	s.eventually(patience, func(ctx context.Context) (err error) {
		body, err = lab.Fetch(ctx, "mypc", "http://"+address+"/")
		if err == nil && harness.Field(body, "Hostname") == "" {
			err = fmt.Errorf("unexpected answer %q", body)
		}
		return err
	})
	return body
}

// owner waits until a node announces the address and answers for it on the network, alone,
// and returns the node.
func (s *scenario) owner(address string) string {
	s.t.Helper()
	var owner string
	s.eventually(patience, func(ctx context.Context) (err error) {
		ip, err := netip.ParseAddr(address)
		if err != nil {
			return err
		}
		owner, err = lab.Owner(ctx, v1alpha1.ClaimName(ip))
		if err != nil {
			return err
		}
		mac, err := lab.OneMAC(ctx, "mypc", address)
		if err != nil {
			return err
		}
		want, err := lab.MAC(ctx, owner)
		if err == nil && mac != want {
			err = fmt.Errorf("%s answers for %s, but its owner is %s (%s)", mac, address, owner, want)
		}
		return err
	})
	return owner
}

// ownedBy waits until one of the nodes owns the address by the claim and on the network.
func (s *scenario) ownedBy(address string, nodes ...string) string {
	s.t.Helper()
	s.eventually(patience, func(ctx context.Context) error {
		owner, err := lab.Owner(ctx, address)
		if err == nil && !slices.Contains(nodes, owner) {
			err = fmt.Errorf("%s is announced by %s, want one of %v", address, owner, nodes)
		}
		return err
	})
	return s.owner(address)
}

// probe measures from mypc for a while; event is called shortly after the begin.
func (s *scenario) probe(address string, length time.Duration, event func()) *harness.Report {
	s.t.Helper()
	p, err := lab.StartProbe(s.t.Context(), "mypc", "http://"+address+"/", length)
	if err != nil {
		s.t.Fatal(err)
	}
	event()
	report, err := p.Wait(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return report
}

// silent waits until nobody answers ARP for the address.
func (s *scenario) silent(address string) {
	s.t.Helper()
	s.eventually(patience, func(ctx context.Context) error { return lab.Silent(ctx, "mypc", address) })
}

// events counts how often each reason was reported about a Service, by the series' counts.
func (s *scenario) events(ctx context.Context, service string) map[string]int {
	s.t.Helper()
	list, err := lab.Events(ctx, s.name, "Service", service)
	if err != nil {
		s.t.Fatal(err)
	}
	count := map[string]int{}
	for i := range list {
		count[list[i].Reason] += occurrences(&list[i])
	}
	return count
}

// occurrences of an event, in the old and the new way of counting.
func occurrences(e *corev1.Event) int {
	n := int(max(e.Count, 1))
	if e.Series != nil {
		n = max(n, int(e.Series.Count))
	}
	return n
}

// wholeCluster waits until every node and agent is as it was at the start.
func (s *scenario) wholeCluster() {
	s.t.Helper()
	s.eventually(2*patience, func(ctx context.Context) error {
		if err := lab.NodesReady(ctx, allNodes); err != nil {
			return err
		}
		return lab.AgentsReady(ctx, allNodes)
	})
}
