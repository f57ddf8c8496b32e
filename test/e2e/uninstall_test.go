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

	"github.com/fairlead-lb/fairlead/test/harness"
)

// TestUninstall ends the package: it stands in the last file, and go test runs files in
// the order of their names. First the agents leave, then everything goes.
func TestUninstall(t *testing.T) {
	ctx := t.Context()
	s := &scenario{t: t, name: "uninstall"}
	s.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: uninstall}\n---\n" +
		poolManifest(s.name, "172.20.251.150-172.20.251.151", s.name) + "---\n" + adManifest(s.name) + "---\n" +
		s.podManifest("web1", "control-plane") + "---\n" + s.serviceManifest("web", "", ""))
	a := s.address("web")
	owner := s.owner(a)
	s.answers(a)

	res, err := lab.Script(ctx, "deploy/uninstall.sh")
	refused := &harness.CommandError{}
	if !errors.As(err, &refused) || refused.Code != 2 || !strings.Contains(res.Stderr+res.Stdout, "uninstall web") {
		t.Errorf("without a choice: %v, want status 2 and the Service named", err)
	}

	s.kubectl("delete", "daemonset", "-n", harness.Namespace, "fairlead-node-agent", "--cascade=foreground", "--timeout=60s")
	s.silent(a, 5*time.Second)
	if err := lab.Traces(ctx, owner, "172.20.251."); err != nil {
		t.Errorf("after the agents have left: %v", err)
	}

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
	s.eventually(10*time.Second, func(ctx context.Context) error {
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
