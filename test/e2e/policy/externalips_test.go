// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package policy

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// grants of TestExternalIPs. 192.0.2.7/24 is a prefix that is not written canonically.
const grants = `
apiVersion: fairlead.dev/v1alpha1
kind: ExternalIPPolicy
metadata: {name: default}
spec:
  grants:
  - {namespaces: [ext-a, ext-other], ranges: [192.0.2.7/24, "2001:DB8:0::/48"]}
  - {namespaceSelector: {matchLabels: {team: b, tier: edge}}, ranges: [198.51.100.0/28]}
  - {namespaceSelector: {matchLabels: {}}, ranges: [198.51.100.99/32]}
  - {namespaces: [ext-a], ranges: [198.51.100.50/32], ports: [{port: 80}, {protocol: UDP, port: 5000, endPort: 5010}]}
  - {namespaces: [ext-a], ranges: [198.51.100.50/31], ports: [{port: 443}]}
`

func namespace(name, labels string) string {
	return "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + name + ", labels: {" + labels + "}}\n"
}

// externalService is a Service with external IPs; ports are given as {port: 80}.
func externalService(namespace, name, ips, ports string) string {
	return "apiVersion: v1\nkind: Service\nmetadata: {name: " + name + ", namespace: " + namespace +
		"}\nspec:\n  selector: {app: web}\n  externalIPs: [" + ips + "]\n  ports: [" + ports + "]\n"
}

const (
	http  = "{name: http, port: 80}"
	https = "{name: https, port: 443}"
	ssh   = "{name: ssh, port: 22}"
)

// TestExternalIPs goes through the life of the one policy object: absent, empty, with
// grants, gone.
func TestExternalIPs(t *testing.T) {
	t.Parallel()
	given(t, namespace("ext-a", ""), namespace("ext-b", "team: b, tier: edge"), namespace("ext-c", "team: b"))

	// Without the object nothing is refused, least of all Services without external IPs.
	for name, ips := range map[string]string{"legacy": `192.0.2.1, "203.0.113.9"`, "plain": ""} {
		check(t, person().create(t.Context(), externalService("ext-c", name, ips, http)), "")
	}
	empty := strings.SplitAfter(grants, "spec:")[0] + " {}\n"
	if err := administrator().create(t.Context(), empty); err != nil {
		t.Fatal(err)
	}
	t.Run("empty", func(t *testing.T) {
		mustRefuse(t, externalService("ext-a", "x", "192.0.2.7", http))
		check(t, person().create(t.Context(), externalService("ext-a", "plain", "", http)), "")
		// Not even for those who could write themselves a grant.
		check(t, administrator().create(t.Context(), externalService("ext-a", "x", "192.0.2.7", http)), "namespace ext-a may not use 192.0.2.7")
	})
	if err := administrator().patch(t.Context(), empty, grants); err != nil {
		t.Fatal(err)
	}
	mustAccept(t, externalService("ext-a", "x", "192.0.2.7", http))
	t.Run("create", testExternalCreate)
	t.Run("update", testExternalUpdate)
	t.Run("limits", testExternalLimits)

	if err := administrator().delete(t.Context(), grants); err != nil {
		t.Fatal(err)
	}
	mustAccept(t, externalService("ext-c", "x", "203.0.113.77", http))
	check(t, person().create(t.Context(), externalService("ext-c", "plain2", "", http)), "")
}

// mustRefuse waits until a Service is refused: the API server learns of grants by a watch.
func mustRefuse(t *testing.T, manifest string) {
	t.Helper()
	err := eventually(t.Context(), func(ctx context.Context) error {
		err := person().create(ctx, manifest)
		if err == nil {
			if err := person().delete(ctx, manifest); err != nil {
				return err
			}
			return fmt.Errorf("still accepted")
		}
		if !strings.Contains(err.Error(), "may not use") {
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// mustAccept waits until a Service is accepted, and deletes it.
func mustAccept(t *testing.T, manifest string) {
	t.Helper()
	err := eventually(t.Context(), func(ctx context.Context) error { return person().create(ctx, manifest) })
	if err == nil {
		err = person().delete(t.Context(), manifest)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func testExternalCreate(t *testing.T) {
	const spoken = `in spec.externalIPs: the ExternalIPPolicy "default" does not grant it; remove it, or ask the cluster administrator for a grant`
	for _, tt := range []struct{ name, namespace, ips, ports, wants string }{
		{"by name of the namespace", "ext-a", "192.0.2.200", http, ""},
		{"several", "ext-a", `192.0.2.200, "2001:db8::1"`, http, ""},
		{"IPv6 written otherwise", "ext-a", `"2001:0DB8:0:0::2"`, http, ""},
		{"IPv6 outside", "ext-a", `"2001:db8:1::1"`, http, "namespace ext-a may not use 2001:db8:1::1 " + spoken},
		{"another namespace", "ext-c", "192.0.2.200", http, "namespace ext-c may not use 192.0.2.200 " + spoken},
		{"one of two", "ext-a", "192.0.2.200, 198.51.100.1", http, "may not use 198.51.100.1 in"},
		{"both", "ext-c", "192.0.2.200, 198.51.100.1", http, "may not use 192.0.2.200, 198.51.100.1 in"},
		{"by labels", "ext-b", "198.51.100.15", http, ""},
		{"by labels, outside", "ext-b", "198.51.100.16", http, "may not use 198.51.100.16"},
		{"one label of two", "ext-c", "198.51.100.15", http, "may not use 198.51.100.15"},
		{"every namespace", "ext-c", "198.51.100.99", http, ""},
		{"granted port", "ext-a", "198.51.100.50", http, ""},
		{"another port", "ext-a", "198.51.100.50", ssh, "may not use 198.51.100.50 (TCP 22) in"},
		{"granted ports of two grants", "ext-a", "198.51.100.50", http + "," + https, ""},
		{"port of one grant only", "ext-a", "198.51.100.51", http + "," + https, "may not use 198.51.100.51 (TCP 80) in"},
		{"first of a range of ports", "ext-a", "198.51.100.50", "{port: 5000, protocol: UDP}", ""},
		{"last of a range of ports", "ext-a", "198.51.100.50", "{port: 5010, protocol: UDP}", ""},
		{"past a range of ports", "ext-a", "198.51.100.50", "{port: 5011, protocol: UDP}", "(UDP 5011)"},
		{"the protocol counts", "ext-a", "198.51.100.50", "{port: 5005}", "(TCP 5005)"},
		{"several ports refused", "ext-a", "198.51.100.50", http + "," + ssh + ",{name: x, port: 81}", "(TCP 22, TCP 81)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := externalService(tt.namespace, "web", tt.ips, tt.ports)
			err := person().create(t.Context(), m)
			check(t, err, tt.wants)
			if err == nil {
				if err := person().delete(t.Context(), m); err != nil {
					t.Error(err)
				}
			}
		})
	}
	// Type and class do not matter to kube-proxy, so not here either.
	for _, spec := range []string{"type: LoadBalancer", "type: NodePort", "clusterIP: None"} {
		m := externalService("ext-c", "web", "192.0.2.200", http) + "  " + spec + "\n"
		check(t, person().create(t.Context(), m), "may not use 192.0.2.200")
	}
}

// testExternalUpdate changes Services that have more than they would be granted now:
// ext-c/legacy from before the policy.
func testExternalUpdate(t *testing.T) {
	legacy := externalService("ext-c", "legacy", "", "")
	given(t, externalService("ext-a", "ports", "198.51.100.50", http))
	limited := externalService("ext-a", "ports", "", "")
	for _, tt := range []struct {
		name, manifest, patch, wants string
		who                          user
	}{
		{"labels", legacy, `{metadata: {labels: {a: b}}}`, "", person()},
		{"a finalizer comes", legacy, `{metadata: {finalizers: [example.com/f]}}`, "", person()},
		{"a finalizer goes", legacy, `{metadata: {finalizers: null}}`, "", person()},
		{"the selector", legacy, `{spec: {selector: {app: other}}}`, "", person()},
		{"a node port comes", legacy, `{spec: {type: NodePort}}`, "", person()},
		{"the target port", legacy, `{spec: {ports: [{name: http, port: 80, targetPort: 8080}]}}`, "", person()},
		{"another address", legacy, `{spec: {externalIPs: [192.0.2.1, 203.0.113.9, 203.0.113.10]}}`, "may not use 203.0.113.10 in", person()},
		{"another instead", legacy, `{spec: {externalIPs: [203.0.113.10]}}`, "may not use 203.0.113.10 in", person()},
		{"a granted one comes", legacy, `{spec: {externalIPs: [192.0.2.1, 203.0.113.9, 198.51.100.99]}}`, "", person()},
		{"another port on what is not granted", legacy, `{spec: {ports: [{name: http, port: 80}, {name: ssh, port: 22}]}}`, "may not use 192.0.2.1, 203.0.113.9 in", person()},
		{"one goes", legacy, `{spec: {externalIPs: [192.0.2.1]}}`, "", person()},
		{"and does not come back", legacy, `{spec: {externalIPs: [192.0.2.1, 203.0.113.9]}}`, "may not use 203.0.113.9 in", person()},
		{"a granted port comes", limited, `{spec: {ports: [{name: http, port: 80}, {name: https, port: 443}]}}`, "", person()},
		{"a port that is not granted comes", limited, `{spec: {ports: [{name: http, port: 80}, {name: ssh, port: 22}]}}`, "may not use 198.51.100.50 (TCP 22) in", person()},
		{"a port goes", limited, `{spec: {ports: [{name: https, port: 443}]}}`, "", person()},
		{"all go", legacy, `{spec: {externalIPs: []}}`, "", person()},
		{"and the first is new again", legacy, `{spec: {externalIPs: [192.0.2.1]}}`, "may not use 192.0.2.1 in", person()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			check(t, tt.who.patch(t.Context(), tt.manifest, tt.patch), tt.wants)
		})
	}
	check(t, controller().patch(t.Context(), legacy, `{status: {loadBalancer: {}}}`, "status"), "")
	check(t, person().delete(t.Context(), legacy), "")
}

// testExternalLimits uses the largest policy that the schema allows, with the grant that
// counts at its end: the cost limit must not be what answers.
func testExternalLimits(t *testing.T) {
	many := make([]string, 17)
	for i := range many {
		many[i] = fmt.Sprintf("192.0.2.%d", i+1)
	}
	check(t, person().create(t.Context(), externalService("ext-a", "web", strings.Join(many, ","), http)), "at most 16 addresses")

	var policy strings.Builder
	policy.WriteString("{spec: {grants: [")
	for g := range 64 {
		policy.WriteString("{namespaceSelector: {matchLabels: {}}, ports: [{port: 80}, {port: 443}], ranges: [")
		for r := range 32 {
			fmt.Fprintf(&policy, "\"2001:db8:%x:%x:0000:0000:0000:0000/64\",", g, r)
		}
		policy.WriteString("]},")
	}
	policy.WriteString("]}}")
	if err := administrator().patch(t.Context(), grants, policy.String()); err != nil {
		t.Fatal(err)
	}
	mustRefuse(t, externalService("ext-a", "web", "192.0.2.200", http))
	last := make([]string, 16)
	for i := range last {
		last[i] = fmt.Sprintf("\"2001:db8:3f:1f::%x\"", i)
	}
	for _, n := range []int{4, 16} {
		m := externalService("ext-a", "web", strings.Join(last[:n], ","), http+","+https)
		err := person().create(t.Context(), m)
		check(t, err, "")
		if err == nil {
			_ = person().delete(t.Context(), m)
		}
	}
	check(t, person().create(t.Context(), externalService("ext-a", "web", `"2001:db8:ffff::1"`, http)), "may not use 2001:db8:ffff::1")
}
