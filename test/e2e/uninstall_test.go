// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/harness"
)

// TestReinstall takes Fairlead away with all its objects and keeps the Services, then
// installs it again with the claims exported before: each Service gets its address back,
// though none shows it any more and lower ones are free.
func TestReinstall(t *testing.T) {
	ctx := t.Context()
	const prefix = "172.20.249.17"
	s := &scenario{t: t, name: "reinstall"}
	pools := poolManifest(s.name, prefix+"0-"+prefix+"5", s.name) + "---\n" + adManifest(s.name)
	s.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: reinstall}\n---\n" + pools + "---\n" + s.podManifest("web1", "control-plane"))
	for i, name := range []string{"gone", "web", "classy"} {
		svc := service{name: name}
		if name == "classy" {
			svc.spec = "loadBalancerClass: " + v1alpha1.DefaultLoadBalancerClass
		}
		s.create(svc)
		s.has(name, fmt.Sprintf("%s%d", prefix, i))
	}
	web, classy := prefix+"1", prefix+"2"
	s.create(service{name: "alt", annotations: `fairlead.dev/addresses: "` + prefix + `5"`})
	s.has("alt", prefix+"5")
	s.kubectl("delete", "svc", "-n", s.name, "gone", "--timeout=60s")
	s.free(prefix + "0")
	if err := lab.BuildPlugin(ctx); err != nil {
		t.Fatal(err)
	}
	exported, err := lab.Plugin(ctx, "", "claims", "export")
	if err != nil {
		t.Fatal(err)
	}

	res, err := lab.Script(ctx, "deploy/uninstall.sh", "--services", "keep")
	if err != nil {
		dump(ctx, t)
		t.Fatalf("%v\n%s%s", err, res.Stdout, res.Stderr)
	}
	services, err := lab.Services(ctx, s.name)
	if err != nil || len(services) != 3 {
		t.Fatalf("%d Services are left, %v; want 3", len(services), err)
	}
	for i := range services {
		if a := harness.Addresses(&services[i]); len(a)+len(services[i].Finalizers) != 0 {
			t.Errorf("%s has addresses %v and finalizers %v, want none", services[i].Name, a, services[i].Finalizers)
		}
	}
	s.silent(web)

	if err := reinstall(ctx); err != nil {
		dump(ctx, t)
		t.Fatal(err)
	}
	if _, err := lab.Plugin(ctx, exported.Stdout, "claims", "import", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	// The annotation that asked for an address is gone too: the claim alone remembers.
	s.patch("svc/alt", `{"metadata":{"annotations":null}}`)
	s.apply(pools)
	for name, a := range map[string]string{"web": web, "classy": classy, "alt": prefix + "5"} {
		s.has(name, a)
		s.rule(name, a, v1alpha1.RuleRetained)
	}
	s.owner(web)
	s.answers(web)
	s.clean("apiVersion: v1\nkind: Namespace\nmetadata: {name: reinstall}\n---\n" + pools)
}

// silentRouter has agents try BGP and BFD with a router that is not there, so that these
// have something to end.
const silentRouter = `apiVersion: fairlead.dev/v1alpha1
kind: BGPPeer
metadata: {name: nobody}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 172.20.251.199, bfdProfile: nobody, passwordSecret: {name: nobody}}
---
apiVersion: v1
kind: Secret
metadata: {name: nobody, namespace: fairlead-system}
type: kubernetes.io/basic-auth
stringData: {password: nobody}
---
apiVersion: fairlead.dev/v1alpha1
kind: BFDProfile
metadata: {name: nobody}
---
apiVersion: fairlead.dev/v1alpha1
kind: Community
metadata: {name: nobody}
spec: {communities: [{name: nobody, value: "65000:1"}]}
---
apiVersion: fairlead.dev/v1alpha1
kind: BGPAdvertisement
metadata: {name: nobody}
spec: {ipAddressPools: [uninstall], peers: [nobody], communities: [nobody]}
`

// TestUninstall ends the package: it stands in the last file, and go test runs files in
// the order of their names. First the agents leave, then everything goes.
func TestUninstall(t *testing.T) {
	ctx := t.Context()
	s := &scenario{t: t, name: "uninstall"}
	s.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: uninstall}\n---\n" +
		poolManifest(s.name, "172.20.251.150-172.20.251.151", s.name) + "---\n" + adManifest(s.name) + "---\n" +
		s.podManifest("web1", "control-plane") + "---\n" + s.serviceManifest("web", "", "") + "---\n" + silentRouter)
	a := s.address("web")
	s.owner(a)
	s.answers(a)

	res, err := lab.Script(ctx, "deploy/uninstall.sh")
	refused := &harness.CommandError{}
	if !errors.As(err, &refused) || refused.Code != 2 || !strings.Contains(res.Stderr+res.Stdout, "uninstall web") {
		t.Errorf("without a choice: %v, want status 2 and the Service named", err)
	}

	s.kubectl("delete", "daemonset", "-n", harness.Namespace, "fairlead-node-agent", "--cascade=foreground", "--timeout=60s")
	s.silent(a)
	for _, n := range harness.FairleadNodes() {
		if err := lab.Traces(ctx, n, "172.20.251."); err != nil {
			t.Errorf("after the agents have left: %v", err)
		}
		pristine(t, n)
	}
	// A DaemonSet that comes back announces again.
	if err := reinstall(ctx); err != nil {
		dump(ctx, t)
		t.Fatal(err)
	}
	s.owner(a)
	s.answers(a)

	res, err = lab.Script(ctx, "deploy/uninstall.sh", "--services", "delete")
	t.Logf("uninstall:\n%s%s", res.Stdout, res.Stderr)
	if err != nil {
		dump(ctx, t)
		t.Fatal(err)
	}
	for _, n := range harness.FairleadNodes() {
		if err := lab.Traces(ctx, n, "172.20.251."); err != nil {
			t.Error(err)
		}
	}
	s.eventually(patience, func(ctx context.Context) error {
		out, err := lab.Kubectl(ctx, "get", "crd,clusterrole,clusterrolebinding,validatingadmissionpolicy,validatingadmissionpolicybinding,namespace,service", "-A", "-o", "name")
		if err != nil {
			return err
		}
		for line := range strings.Lines(out.Stdout) {
			if strings.Contains(line, "fairlead") || strings.HasSuffix(strings.TrimSpace(line), "service/web") {
				return fmt.Errorf("left in the API: %s", strings.TrimSpace(line))
			}
		}
		return nil
	})
}
