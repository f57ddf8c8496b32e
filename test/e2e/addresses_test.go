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
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/test/harness"
)

// TestAddresses shows what a pool and a Service can say about addresses.
func TestAddresses(t *testing.T) {
	together(t, map[string]func(s *scenario){
		"sharing":           sharing,
		"several addresses": severalAddresses,
		"dual stack":        dualStack,
		"drained pool":      drainedPool,
		"edited pool":       editedPool,
		"pool defaults":     poolDefaults,
		"pool not allowed":  poolNotAllowed,
		"cluster ranges":    clusterRanges,
		"younger range":     youngerRange,
		"class-less":        func(s *scenario) { served(s, "classless", "172.20.249.100-172.20.249.103", "") },
		"our class": func(s *scenario) {
			served(s, "class", "172.20.249.105-172.20.249.108", v1alpha1.DefaultLoadBalancerClass)
		},
		"foreign class":      foreignClass,
		"retained":           retained,
		"deadline":           deadline,
		"external addresses": externalAddresses,
	})
}

// sharing has Services on one address that come, clash, go and change.
func sharing(s *scenario) {
	t := s.t
	s.begin("sharing", "172.20.249.10-172.20.249.11")
	const a, key = "172.20.249.10", "fairlead.dev/sharing-key: k"
	s.apply(s.podManifest("web1", "control-plane"))
	s.create(service{name: "web", annotations: key})
	s.has("web", a)
	s.create(
		service{name: "alt", annotations: "metallb.io/allow-shared-ip: k", ports: "{port: 8080, targetPort: 80}"},
		service{name: "names", annotations: key, ports: "{port: 80, protocol: UDP}"},
	)
	s.has("alt", a)
	s.has("names", a)
	s.rule("alt", a, v1alpha1.RuleShared)
	claim := s.tenants(a, v1alpha1.ClaimBound, "alt", "names", "web")
	if claim.Spec.SharingKey != "k" {
		t.Errorf("the claim's sharing key is %q, want k", claim.Spec.SharingKey)
	}
	owner := s.owner(a)
	s.eventually(patience, func(ctx context.Context) error {
		for _, name := range []string{"web", "alt", "names"} {
			rec, err := lab.Record(ctx, s.name, name)
			if err != nil {
				return err
			}
			if rec.Status.Owner == nil || rec.Status.Owner.Node != owner {
				return fmt.Errorf("the record of %s names owner %v, want %s", name, rec.Status.Owner, owner)
			}
		}
		return nil
	})
	s.answers(a)
	s.answers(a + ":8080")

	// A port clash is refused by name and number, and hurts nobody; another key as well.
	asks := `, fairlead.dev/addresses: "` + a + `"`
	s.create(
		service{name: "clash", annotations: key + asks},
		service{name: "other", annotations: "fairlead.dev/sharing-key: other" + asks, ports: "{port: 9090}"},
	)
	s.refused("clash", reason.PortInUse, "80", "sharing/web")
	s.refused("other", reason.SharingKeyMismatch)
	s.answers(a)
	s.has("web", a)

	// One leaves, the others stay; who waited for its port gets it.
	s.kubectl("delete", "svc", "-n", s.name, "web")
	s.has("clash", a)
	s.tenants(a, v1alpha1.ClaimBound, "alt", "clash", "names")
	s.answers(a + ":8080")
	s.answers(a)

	// One that no longer fits moves to an address of its own.
	s.patch("svc/alt", `{"metadata":{"annotations":{"metallb.io/allow-shared-ip":null}}}`)
	s.has("alt", "172.20.249.11")
	s.tenants(a, v1alpha1.ClaimBound, "clash", "names")
	s.answers("172.20.249.11:8080")
}

// severalAddresses has a Service with two addresses, one owner for both.
func severalAddresses(s *scenario) {
	t := s.t
	s.begin("several", "172.20.249.20-172.20.249.22")
	s.apply(s.podManifest("web1", "control-plane"))
	s.create(service{name: "web", annotations: `fairlead.dev/address-count: "2"`})
	s.has("web", "172.20.249.20", "172.20.249.21")
	first, second := s.owner("172.20.249.20"), s.owner("172.20.249.21")
	if first != second {
		t.Errorf("%s announces the first address and %s the second, want one node", first, second)
	}
	s.answers("172.20.249.20")
	s.answers("172.20.249.21")
	s.patch("svc/web", `{"metadata":{"annotations":{"fairlead.dev/address-count":"1"}}}`)
	s.has("web", "172.20.249.20")
	s.free("172.20.249.21")
	s.create(service{name: "toomany", annotations: `fairlead.dev/address-count: "3"`})
	s.refused("toomany", reason.PoolExhausted)
}

// dualStack changes a Service's families in place; each family has a pool of its own.
func dualStack(s *scenario) {
	t := s.t
	const four, six = "172.20.249.30", "fd00:172:20::249:30"
	s.begin("dual", four+"/32")
	s.apply(s.podManifest("web1", "control-plane"))
	s.apply(poolManifest("dual6", six+"/128", s.name) +
		"---\napiVersion: fairlead.dev/v1alpha1\nkind: L2Advertisement\nmetadata: {name: dual6}\nspec: {ipAddressPools: [dual6]}\n")
	t.Cleanup(func() { cleanUp(t, "delete", "ipaddresspool.fairlead.dev,l2advertisement.fairlead.dev", "dual6") })
	s.create(
		service{name: "web", spec: "ipFamilyPolicy: SingleStack, ipFamilies: [IPv4]"},
	)
	s.has("web", four)
	owner := s.owner(four)
	s.patch("svc/web", `{"spec":{"ipFamilyPolicy":"RequireDualStack"}}`)
	s.has("web", four, six)
	if now := s.owner(six); now != owner {
		t.Errorf("%s announces %s, want %s, which announces %s", now, six, owner, four)
	}
	s.answers(four)
	s.answers("[" + six + "]")
	s.create(service{name: "prefers", annotations: "fairlead.dev/pool: dual6", spec: "ipFamilyPolicy: PreferDualStack"})
	s.refused("prefers", reason.PoolExhausted)
	s.patch("svc/web", `{"spec":{"ipFamilyPolicy":"SingleStack"}}`)
	s.has("web", four)
	s.has("prefers", six)
	s.create(service{name: "needs", annotations: "fairlead.dev/pool: dual6", spec: "ipFamilyPolicy: RequireDualStack"})
	s.refused("needs", reason.NoAddressOfFamily, "IPv4")
	if now := s.owner(four); now != owner {
		t.Errorf("%s announces %s after the changes, want %s as before", now, four, owner)
	}
}

// on runs a command on a host of the lab or ends the test.
func (s *scenario) on(host string, argv ...string) string {
	s.t.Helper()
	res, err := lab.Exec(s.t.Context(), host, argv...)
	if err != nil {
		s.t.Fatal(err)
	}
	return res.Stdout
}

// grant makes these the only grants of spec.externalIPs.
func (s *scenario) grant(grants string) {
	s.t.Helper()
	s.apply("apiVersion: fairlead.dev/v1alpha1\nkind: ExternalIPPolicy\nmetadata: {name: default}\nspec: {grants: [" + grants + "]}\n")
}

// externalAddresses has addresses in spec.externalIPs, granted and not.
func externalAddresses(s *scenario) {
	t := s.t
	const granted, ungranted = "172.20.249.140", "172.20.249.141"
	s.begin("external", granted+"-"+ungranted)
	s.apply(s.podManifest("web1", "control-plane"))
	web := func(name, address string) string {
		m := s.manifest(service{name: name, spec: "externalIPs: [" + address + "]"})
		return strings.Replace(m, "type: LoadBalancer", "type: ClusterIP", 1)
	}
	// The controller makes an empty policy where there is none: nothing is granted.
	s.eventually(patience, func(ctx context.Context) error {
		if _, err := lab.Apply(ctx, web("web", granted)); err == nil {
			return errors.New("spec.externalIPs was accepted without a grant")
		}
		return nil
	})
	s.grant(`{namespaces: [` + s.name + `], ranges: [` + granted + `/32], ports: [{port: 80}]}`)
	t.Cleanup(func() {
		cleanUp(t, "patch", "externalippolicy.fairlead.dev", "default", "--type=merge", "-p", `{"spec":{"grants":[]}}`)
	})
	s.eventually(patience, func(ctx context.Context) error {
		_, err := lab.Apply(ctx, web("web", granted))
		return err
	})
	if _, err := lab.Apply(t.Context(), web("bad", ungranted)); err == nil {
		t.Errorf("%s was accepted, which no grant allows", ungranted)
	}
	s.tenants(granted, v1alpha1.ClaimBound, "web")
	s.rule("web", granted, v1alpha1.RuleExternalIP)
	s.owner(granted)
	s.answers(granted)
	svc, err := lab.Service(t.Context(), s.name, "web")
	if err != nil {
		t.Fatal(err)
	}
	if got := harness.Addresses(svc); len(got) != 0 {
		t.Errorf("the status shows %v, want nothing for spec.externalIPs", got)
	}
	// A Service of type LoadBalancer does not get an address that is somebody's externalIP.
	s.create(service{name: "lb"})
	s.has("lb", ungranted)
	s.patch("svc/web", `{"spec":{"externalIPs":null}}`)
	s.free(granted)
	s.silent(granted)
}
