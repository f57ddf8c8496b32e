// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// agentTokenIsBound tries what a token stolen from one node could do.
func agentTokenIsBound(s *scenario) {
	t := s.t
	s.begin("stolen", "172.20.251.140/32")
	s.apply(s.serviceManifest("web", "", ""))
	a := s.address("web")
	owner := s.owner(a)
	thief := "worker"
	if owner == thief {
		thief = "worker2"
	}
	token := strings.TrimSpace(s.kubectl("create", "token", "-n", "fairlead-system", "fairlead-node-agent",
		"--bound-object-kind=Pod", "--bound-object-name="+s.agentPod(thief)))
	const api = "https://172.20.0.5:6443/apis/fairlead.dev/v1alpha1/"
	third := "worker3"
	for _, tc := range []struct {
		name, path, body string
		allowed          bool
	}{
		{name: "its own NodeAgent", path: "nodeagents/" + thief + "/status", body: `{"metadata":{"annotations":{}}}`, allowed: true},
		{name: "another's NodeAgent", path: "nodeagents/" + third + "/status", body: `{"status":{"version":"stolen"}}`},
		{name: "a claim's spec", path: "ipclaims/" + a, body: `{"spec":{"successors":["` + thief + `"]}}`},
		{name: "another as owner", path: "ipclaims/" + a + "/status", body: `{"status":{"owner":{"node":"` + third + `","epoch":99,"since":"2026-01-01T00:00:00Z"}}}`},
		{name: "another's ownership removed", path: "ipclaims/" + a + "/status", body: `{"status":{"owner":null}}`},
		{name: "a record", path: "namespaces/" + s.name + "/loadbalancers/web", body: `{"spec":{"targetType":"node-port"}}`},
		{name: "a pool", path: "ipaddresspools/" + s.name, body: `{"spec":{"autoAssign":false}}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			res, err := lab.Exec(t.Context(), thief, "curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "-X", "PATCH",
				"-H", "Authorization: Bearer "+token, "-H", "Content-Type: application/merge-patch+json", "-d", tc.body, api+tc.path)
			if err != nil {
				t.Fatal(err)
			}
			want := "403"
			if tc.allowed {
				want = "200"
			}
			if res.Stdout != want {
				t.Errorf("status %s, want %s", res.Stdout, want)
			}
		})
	}
	if now := s.owner(a); now != owner {
		t.Errorf("%s announces afterwards, want %s", now, owner)
	}
	// The agents' ServiceAccount without a node in its token may not write at all.
	unbound := strings.TrimSpace(s.kubectl("create", "token", "-n", "fairlead-system", "fairlead-node-agent"))
	res, err := lab.Exec(t.Context(), thief, "curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "-X", "PATCH",
		"-H", "Authorization: Bearer "+unbound, "-H", "Content-Type: application/merge-patch+json",
		"-d", `{"status":{"version":"stolen"}}`, api+"nodeagents/"+thief+"/status")
	if err != nil || res.Stdout != "403" {
		t.Errorf("an unbound token gives status %s, %v; want 403", res.Stdout, err)
	}
}

// metricsNeedPermission asks the agent for its metrics without and with a token that
// may read them.
func metricsNeedPermission(s *scenario) {
	t := s.t
	s.begin("metrics", "")
	get := func(token string) string {
		res, err := lab.Exec(t.Context(), "worker", "curl", "-sk", "--max-time", "20", "-w", "\n%{http_code}",
			"-H", "Authorization: Bearer "+token, "https://172.20.0.4:7480/metrics")
		if err != nil {
			t.Fatal(err)
		}
		return res.Stdout
	}
	if out := get("nonsense"); !strings.HasSuffix(out, "\n401") {
		t.Errorf("without a valid token: %s, want status 401", out)
	}
	s.apply("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: scraper, namespace: " + s.name + "}\n")
	token := strings.TrimSpace(s.kubectl("create", "token", "-n", s.name, "scraper"))
	if out := get(token); !strings.HasSuffix(out, "\n403") {
		t.Errorf("without permission: %s, want status 403", out)
	}
	s.apply("apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: e2e-metrics}\n" +
		"rules: [{nonResourceURLs: [/metrics], verbs: [get]}]\n---\n" +
		"apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: e2e-metrics}\n" +
		"roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: e2e-metrics}\n" +
		"subjects: [{kind: ServiceAccount, name: reader, namespace: " + s.name + "}]\n---\n" +
		"apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: reader, namespace: " + s.name + "}\n")
	t.Cleanup(func() { cleanUp(t, "delete", "clusterrolebinding,clusterrole", "e2e-metrics") })
	reader := strings.TrimSpace(s.kubectl("create", "token", "-n", s.name, "reader"))
	var out string
	s.eventually(patience, func(context.Context) error { // the API server learns of a binding a moment later
		if out = get(reader); !strings.HasSuffix(out, "\n200") {
			return fmt.Errorf("with permission: %s, want status 200", out)
		}
		return nil
	})
	for _, metric := range []string{"fairlead_agent_announced_addresses", "fairlead_agent_takeovers_total", "fairlead_agent_gossip_members 4"} {
		if !strings.Contains(out, metric) {
			t.Errorf("no %q among the metrics", metric)
		}
	}
}
