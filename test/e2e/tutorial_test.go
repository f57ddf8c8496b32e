// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
)

// TestTutorial applies deploy/examples/tutorial and looks at everything that the
// tutorial's layer-2 part looks at.
func TestTutorial(t *testing.T) {
	s := newScenario(t, "tutorial", "")
	dir := filepath.Join(lab.Root(), "deploy", "examples", "tutorial")
	for _, f := range []string{"1-pool.yaml", "2-l2advertisement.yaml"} {
		s.kubectl("apply", "-f", filepath.Join(dir, f))
		t.Cleanup(func() { cleanUp(t, "delete", "-f", filepath.Join(dir, f), "--ignore-not-found") })
	}
	for _, f := range []string{"3-pods.yaml", "4-services.yaml"} {
		s.kubectl("apply", "-n", s.name, "-f", filepath.Join(dir, f))
	}
	want := []string{"172.20.255.200", "172.20.255.201", "172.20.255.202"}
	var got []string
	for _, svc := range []string{"svc1", "svc2", "svc3"} {
		got = append(got, s.address(svc))
	}
	if !slices.Equal(got, want) {
		t.Fatalf("addresses %v, want %v", got, want)
	}

	owners := map[string]bool{}
	for _, a := range got {
		owners[s.owner(a)] = true
		for _, client := range []string{"mypc", "mypc2"} {
			s.eventually(patience, func(ctx context.Context) error {
				_, err := lab.Fetch(ctx, client, "http://"+a+"/")
				return err
			})
		}
	}
	if len(owners) != 3 {
		t.Errorf("the three addresses are announced by %v, want three nodes", owners)
	}

	s.kubectl("wait", "-n", s.name, "--for=condition=Ready", "pod", "--all", "--timeout=60s")
	for _, a := range got {
		// A machine that stands still costs a request sometimes, a fault always.
		var err error
		for range attempts {
			var dist harness.Distribution
			if dist, err = lab.Requests(t.Context(), "mypc", "http://"+a+"/", 100); err != nil {
				t.Fatal(err)
			}
			if dist.Total() == 100 && dist["webpod1"] >= 25 && dist["webpod2"] >= 25 {
				err = nil
				break
			}
			err = fmt.Errorf("100 requests to %s were answered by %s, want all, at least 25 by each pod", a, dist)
			t.Log(err)
		}
		if err != nil {
			t.Error(err)
		}
	}

	svc, err := lab.Service(t.Context(), s.name, "svc1")
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"127.0.0.1:" + strconv.Itoa(int(svc.Spec.Ports[0].NodePort)), svc.Spec.ClusterIP} {
		body, err := lab.Fetch(t.Context(), "control-plane", "http://"+target+"/")
		if err != nil || !strings.HasPrefix(harness.Field(body, "Hostname"), "webpod") {
			t.Errorf("http://%s answers %q, %v; want a pod's answer", target, body, err)
		}
	}
	readable(t, s)
}

// readable checks what people read: columns, description, and events on change only.
func readable(t *testing.T, s *scenario) {
	t.Helper()
	s.kubectl("wait", "-n", s.name, "--for=condition=Ready", "loadbalancer", "--all", "--timeout=60s")
	out := s.kubectl("get", "loadbalancers,ipclaims,ipaddresspools", "-A")
	owner := s.owner("172.20.255.200")
	for _, want := range [][]string{
		{"loadbalancer.fairlead.dev/svc1", "172.20.255.200", "my-ippool", owner, "True"},
		{"ipclaim.fairlead.dev/172.20.255.200", "my-ippool", "svc1", "Bound", owner},
		{"ipaddresspool.fairlead.dev/my-ippool", "172.20.255.200-172.20.255.250", "3", "48", "True"},
	} {
		if !slices.ContainsFunc(strings.Split(out, "\n"), func(line string) bool {
			return !slices.ContainsFunc(want, func(w string) bool { return !strings.Contains(line, w) })
		}) {
			t.Errorf("no line with %q in\n%s", want, out)
		}
	}
	describe := s.kubectl("describe", "svc", "-n", s.name, "svc1")
	for _, want := range []string{"172.20.255.200 (VIP)", "AddressAllocated", "my-ippool", "Announcing", `node "` + owner + `"`} {
		if !strings.Contains(describe, want) {
			t.Errorf("describe svc1 does not say %q:\n%s", want, describe)
		}
	}
	// A change that changes nothing for us reports nothing.
	before := s.events(t.Context(), "svc1")
	s.kubectl("annotate", "-n", s.name, "svc", "svc1", "example.com/note=1")
	err := harness.Always(t.Context(), 2*time.Second, func(context.Context) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	after := s.events(t.Context(), "svc1")
	for _, r := range []string{"AddressAllocated", "Announcing"} {
		if before[r] != 1 || after[r] != 1 {
			t.Errorf("%d then %d events %s about svc1, want 1 and 1", before[r], after[r], r)
		}
	}
}

// cleanUp runs kubectl after a test.
func cleanUp(t *testing.T, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	if _, err := lab.Kubectl(ctx, args...); err != nil {
		t.Errorf("clean up: %v", err)
	}
}
