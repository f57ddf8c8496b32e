// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package policy

import (
	"fmt"
	"strings"
	"testing"
)

func poolOf(name, spec string) string {
	return "apiVersion: fairlead.dev/v1alpha1\nkind: IPAddressPool\nmetadata: {name: " + name + "}\nspec: {" + spec + "}\n"
}

// list of n strings made by format, which takes one number.
func list(n int, format string) string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf(format, i)
	}
	return "[" + strings.Join(out, ", ") + "]"
}

func TestPools(t *testing.T) {
	t.Parallel()
	const some = "addresses: [192.0.2.0/24], "
	// The longest spelling that the schema takes: two full IPv6 addresses.
	const longest = `"2001:0db8:%04[1]x:0000:0000:0000:0000:0000 - 2001:0db8:%04[1]x:ffff:ffff:ffff:ffff:ffff"`
	for i, tt := range []struct{ name, spec, wants string }{
		{"prefix and range", "addresses: [192.0.2.0/24, 198.51.100.7-198.51.100.9, '2001:db8::/64', '2001:db8:1::1 - 2001:db8:1::9']", ""},
		{"64 of the longest ranges", "addresses: " + list(64, longest) + ", excludedAddresses: " + list(64, longest), ""},
		{"65 ranges", "addresses: " + list(65, "10.%d.0.0/16"), "must have at most 64 items"},
		{"no range", "addresses: []", "should have at least 1 items"},
		{"a single address", "addresses: [192.0.2.7]", "must be a CIDR prefix"},
		{"two families", "addresses: ['192.0.2.7-2001:db8::1']", "must be a CIDR prefix"},
		{"three addresses", "addresses: [192.0.2.7-192.0.2.8-192.0.2.9]", "must be a CIDR prefix"},
		{"no address", "addresses: [web]", "must be a CIDR prefix"},
		{"excluded", some + "excludedAddresses: [192.0.2.7/32, 192.0.2.10-192.0.2.20]", ""},
		{"excluded nonsense", some + "excludedAddresses: [192.0.2.7]", "must be a CIDR prefix"},
		{"65 excluded", some + "excludedAddresses: " + list(65, "10.%d.0.0/16"), "must have at most 64 items"},
		{"disabled", some + "disabled: true", ""},
		{"retain", some + "reclaimPolicy: Retain, retainFor: 1h30m", ""},
		{"retain for Services that ask", some + "reclaimPolicy: Delete, retainFor: 1h", ""},
		{"another reclaim policy", some + "reclaimPolicy: Recycle", "Unsupported value"},
		{"too short", some + "retainFor: 500ms", "must be between 1s and 8760h"},
		{"too long", some + "retainFor: 8761h", "must be between 1s and 8760h"},
		{"no duration", some + "retainFor: tomorrow", "spec.retainFor"},
		{"defaults", some + "defaults: {targetType: node-port, advertisements: [a, b]}", ""},
		{"another target", some + "defaults: {targetType: NodePort}", "Unsupported value"},
		{"an advertisement twice", some + "defaults: {advertisements: [a, a]}", "Duplicate value"},
		{"an advertisement without a name", some + "defaults: {advertisements: ['']}", "at least 1 chars long"},
		{"a negative priority", some + "serviceAllocation: {priority: -1}", "greater than or equal to 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := poolOf(fmt.Sprintf("crd-%d", i), tt.spec)
			err := person().create(t.Context(), m)
			check(t, err, tt.wants)
			if err == nil {
				if err := person().delete(t.Context(), m); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// The rules of objects that only the controller or an import makes.
func TestClaimsAreConsistent(t *testing.T) {
	t.Parallel()
	retained := claimManifest("203.0.113.61", "Retained")
	claim := func(name, address string) string {
		m := strings.ReplaceAll(claimManifest("AT", "Retained"), "name: AT", "name: "+name)
		return strings.ReplaceAll(m, "AT", `"`+address+`"`)
	}
	const v6 = "2001-0db8-0000-0000-0000-0000-0000-0001"
	for _, tt := range []struct{ name, manifest, wants string }{
		{"retained", retained, ""},
		{"retained for ever", strings.Replace(retained, "\n  retainUntil: 2030-01-01T00:00:00Z", "", 1), "a Retained claim needs retainUntil"},
		{"bound", strings.Replace(claimManifest("203.0.113.62", "Bound"), "  pool: p", "  pool: p\n  retainFor: 24h", 1), ""},
		{"without a Service", strings.Replace(retained, "services: [", "services: [] #", 1), "should have at least 1 items"},
		{"another name", claim("203.0.113.63", "203.0.113.64"), "the name of an IPClaim is its address"},
		{"IPv6", claim(v6, "2001:db8::1"), ""},
		{"IPv6 by another name", claim("2001-0db8-0000-0000-0000-0000-0000-0002", "2001:db8::1"), "the name of an IPClaim is its address"},
		{"IPv6 by a short name", claim("2001-db8-0-0-0-0-0-1", "2001:db8::1"), "the name of an IPClaim is its address"},
		{"IPv6 written otherwise", claim(v6, "2001:DB8::1"), "must be an IP address in canonical form"},
		{"a long sharing key", strings.Replace(retained, "  pool: p", "  pool: p\n  sharingKey: "+strings.Repeat("k", 254), 1), "Too long"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := administrator().create(t.Context(), tt.manifest)
			check(t, err, tt.wants)
			if err == nil {
				if err := administrator().delete(t.Context(), tt.manifest); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// Refused ones only: an accepted one would be in TestExternalIPs' way, which has those.
func TestExternalIPPoliciesAreValid(t *testing.T) {
	t.Parallel()
	policy := func(name, grant string) string {
		return "apiVersion: fairlead.dev/v1alpha1\nkind: ExternalIPPolicy\nmetadata: {name: " + name + "}\nspec: {grants: [{" + grant + "}]}\n"
	}
	const some = "ranges: [192.0.2.0/24], "
	for _, tt := range []struct{ name, manifest, wants string }{
		{"another name", policy("other", some+"namespaces: [a]"), "the only ExternalIPPolicy is the one named default"},
		{"for nobody", policy("default", "ranges: [192.0.2.0/24]"), "give either namespaces or namespaceSelector"},
		{"by both", policy("default", some+"namespaces: [a], namespaceSelector: {matchLabels: {}}"), "give either namespaces or namespaceSelector"},
		{"by an expression, which is no field and would be dropped", policy("default", some+"namespaceSelector: {matchExpressions: [{key: team, operator: Exists}]}"), "namespaceSelector.matchLabels: Required"},
		{"an empty list of namespaces", policy("default", some+"namespaces: []"), "should have at least 1 items"},
		{"a namespace without a name", policy("default", some+"namespaces: ['']"), "at least 1 chars long"},
		{"no range", policy("default", "namespaces: [a]"), "ranges: Required"},
		{"an address as range", policy("default", "ranges: [192.0.2.7], namespaces: [a]"), "must be a CIDR prefix"},
		{"a mapped range", policy("default", "ranges: ['::ffff:192.0.2.0/120'], namespaces: [a]"), "must be a CIDR prefix"},
		{"ports backwards", policy("default", some+"namespaces: [a], ports: [{port: 80, endPort: 79}]"), "endPort must not be below port"},
		{"port 0", policy("default", some+"namespaces: [a], ports: [{port: 0}]"), "greater than or equal to 1"},
		{"another protocol", policy("default", some+"namespaces: [a], ports: [{port: 80, protocol: tcp}]"), "Unsupported value"},
		{"65 grants", policy("default", strings.Repeat(some+"namespaces: [a]}, {", 64)+some+"namespaces: [a]"), "must have at most 64 items"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			check(t, person().create(t.Context(), tt.manifest), tt.wants)
		})
	}
}
