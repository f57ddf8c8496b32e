// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/test/harness"
)

// pool reads an IPAddressPool.
func pool(ctx context.Context, name string) (*v1alpha1.IPAddressPool, error) {
	return harness.Get[*v1alpha1.IPAddressPool](ctx, lab, "ipaddresspool.fairlead.dev", name)
}

// drainedPool disables a pool: who has an address keeps it, nobody gets one.
func drainedPool(s *scenario) {
	s.begin("drained", "172.20.249.40-172.20.249.42")
	s.create(service{name: "keeps"})
	s.has("keeps", "172.20.249.40")
	s.patchPool(`{"disabled":true}`)
	s.poolReason(s.name, metav1.ConditionFalse, reason.Disabled)
	s.create(
		service{name: "asks", annotations: "fairlead.dev/pool: " + s.name},
		service{name: "names", annotations: `fairlead.dev/addresses: "172.20.249.42"`},
		service{name: "waits"},
	)
	s.refused("asks", reason.PoolDisabled, s.name)
	s.refused("names", reason.PoolDisabled, s.name)
	s.refused("waits", reason.NoPool)
	s.has("keeps", "172.20.249.40")
	s.owner("172.20.249.40")
	s.patchPool(`{"disabled":false}`)
	s.has("asks", "172.20.249.41")
	s.has("names", "172.20.249.42")
	s.poolReason(s.name, metav1.ConditionTrue, reason.Valid)
}

// editedPool excludes addresses, moves the range and deletes the pool under a holder.
func editedPool(s *scenario) {
	s.begin("edited", "172.20.249.50-172.20.249.53")
	s.create(service{name: "web"})
	s.has("web", "172.20.249.50")
	s.patchPool(`{"excludedAddresses":["172.20.249.50-172.20.249.51"]}`)
	s.create(
		service{name: "next"},
		service{name: "asks", annotations: `fairlead.dev/addresses: "172.20.249.51"`},
	)
	s.has("next", "172.20.249.52")
	s.refused("asks", reason.AddressExcluded, "172.20.249.51")
	s.eventually(patience, func(ctx context.Context) error {
		p, err := pool(ctx, s.name)
		if err != nil {
			return err
		}
		st := p.Status
		want := []v1alpha1.PoolTenant{{Namespace: s.name, Addresses: 2}}
		if st.TotalIPv4 != 2 || st.AvailableIPv4 != 1 || !slices.Equal(st.LargestTenants, want) {
			return fmt.Errorf("total %d, free %d, tenants %v; want 2, 1 and %v", st.TotalIPv4, st.AvailableIPv4, st.LargestTenants, want)
		}
		return nil
	})
	s.patchPool(`{"excludedAddresses":[],"addresses":["172.20.249.54-172.20.249.55"]}`)
	s.create(service{name: "moved"})
	s.has("moved", "172.20.249.54")
	s.refused("asks", reason.AddressNotInPool, "172.20.249.51")
	// Who asks for the pool by name is told when the controller knows that it is gone.
	s.create(service{name: "witness", annotations: "fairlead.dev/pool: " + s.name + `, fairlead.dev/address-count: "2"`})
	s.refused("witness", reason.PoolExhausted)
	s.kubectl("delete", "ipaddresspool.fairlead.dev", s.name)
	s.refused("witness", reason.PoolNotFound)
	s.kubectl("delete", "svc", "-n", s.name, "witness")
	s.create(service{name: "none"})
	s.refused("none", reason.NoPool)
	s.has("web", "172.20.249.50")
	s.has("next", "172.20.249.52")
	s.has("moved", "172.20.249.54")
	// Both have waited for it, and the younger would take what the older asks for.
	s.apply(poolManifest(s.name, "172.20.249.50-172.20.249.55", s.name))
	s.has("asks", "172.20.249.51")
	s.has("none", "172.20.249.53")
	s.has("web", "172.20.249.50")
	s.owner("172.20.249.50")
}

// poolDefaults says target type and advertisement for Services that do not.
func poolDefaults(s *scenario) {
	t := s.t
	s.begin("defaults", "172.20.249.60-172.20.249.61")
	for _, node := range []string{"worker", "worker2"} {
		s.apply("apiVersion: fairlead.dev/v1alpha1\nkind: L2Advertisement\nmetadata: {name: defaults-" + node + "}\n" +
			"spec: {ipAddressPools: [" + s.name + "], nodeSelectors: [{matchLabels: {kubernetes.io/hostname: " + node + "}}]}\n")
		t.Cleanup(func() { cleanUp(t, "delete", "l2advertisement.fairlead.dev", "defaults-"+node) })
	}
	s.patchPool(`{"defaults":{"targetType":"node-port","advertisements":["defaults-worker"]}}`)
	s.create(
		service{name: "silent"},
		service{name: "speaks", annotations: "fairlead.dev/target-type: pod, fairlead.dev/advertisements: defaults-worker2"},
	)
	for name, want := range map[string]struct {
		address, node string
		target        v1alpha1.TargetType
	}{
		"silent": {"172.20.249.60", "worker", v1alpha1.TargetNodePort},
		"speaks": {"172.20.249.61", "worker2", v1alpha1.TargetPod},
	} {
		s.has(name, want.address)
		s.ownedBy(want.address, want.node)
		rec, err := lab.Record(t.Context(), s.name, name)
		if err != nil {
			t.Fatal(err)
		}
		if ads := rec.Spec.Advertisements; rec.Spec.TargetType != want.target || len(ads) != 1 || ads[0].Name != "defaults-"+want.node {
			t.Errorf("%s has target type %s and advertisements %v, want %s and defaults-%s", name, rec.Spec.TargetType, ads, want.target, want.node)
		}
	}
}

// poolNotAllowed asks for another team's pool.
func poolNotAllowed(s *scenario) {
	t := s.t
	s.begin("notallowed", "172.20.249.70/32")
	s.apply(poolManifest("notallowed-theirs", "172.20.249.71/32", "another-team"))
	t.Cleanup(func() { cleanUp(t, "delete", "ipaddresspool.fairlead.dev", "notallowed-theirs") })
	s.create(
		service{name: "bypool", annotations: "fairlead.dev/pool: notallowed-theirs"},
		service{name: "byaddress", annotations: `metallb.io/loadBalancerIPs: "172.20.249.71"`},
	)
	s.refused("bypool", reason.PoolNotAllowed, "notallowed-theirs")
	s.refused("byaddress", reason.PoolNotAllowed, "notallowed-theirs")
}

// clusterRanges has pools that are younger than the pod and Service ranges they overlap.
func clusterRanges(s *scenario) {
	t := s.t
	s.begin("ranges", "")
	for name, tc := range map[string]struct {
		addresses string
		want      reason.Reason
	}{
		"ranges-pods":     {"10.10.1.128/25", reason.OverlapsPodRange},
		"ranges-services": {"10.200.1.128/25", reason.OverlapsServiceRange},
		"ranges-six":      {"fd00:10:200:1::/120", reason.OverlapsServiceRange},
	} {
		s.apply(poolManifest(name, tc.addresses, s.name))
		t.Cleanup(func() { cleanUp(t, "delete", "ipaddresspool.fairlead.dev", name) })
		s.poolReason(name, metav1.ConditionFalse, tc.want)
	}
	s.create(service{name: "web"})
	s.refused("web", reason.NoPool)
}

// youngerRange adds a Service range to the cluster that overlaps an older pool: the pool
// stays in use without the common addresses, and the range is told.
func youngerRange(s *scenario) {
	t := s.t
	s.begin("younger", "172.20.249.80-172.20.249.84")
	// The ages of Kubernetes objects have a resolution of one second.
	if err := harness.Pause(t.Context(), 1100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	s.apply("apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: younger}\nspec: {cidrs: [172.20.249.80/30]}\n")
	// Kubernetes takes its time to delete one, in case that an address of it is in use.
	t.Cleanup(func() { cleanUp(t, "delete", "servicecidr", "younger", "--wait=false") })
	s.poolConflict(metav1.ConditionTrue, reason.OverlapsServiceRange)
	s.poolReason(s.name, metav1.ConditionTrue, reason.Valid)
	s.toldIn("default", "ServiceCIDR", "younger", reason.OverlapsServiceRange, s.name)
	s.create(service{name: "web"})
	s.has("web", "172.20.249.84")
}

// poolConflict waits until the scenario's pool says whether addresses of it are not handed
// out, and why.
func (s *scenario) poolConflict(status metav1.ConditionStatus, want reason.Reason) {
	s.t.Helper()
	s.eventually(patience, func(ctx context.Context) error {
		p, err := pool(ctx, s.name)
		if err != nil {
			return err
		}
		if st, why := harness.Condition(p.Status.Conditions, v1alpha1.ConditionConflict); st != status || why != want.String() {
			return fmt.Errorf("pool %s: Conflict is %q, reason %q; want %q, %q", s.name, st, why, status, want)
		}
		return nil
	})
}

// oldestFirst has three Services wait for an address, in the order of time and not of
// their names. The pool is widened, then an address is freed.
func oldestFirst(s *scenario) {
	t := s.t
	s.begin("line", "172.20.249.90/32")
	s.create(service{name: "holder"})
	s.has("holder", "172.20.249.90")
	for _, name := range []string{"c-first", "b-second", "a-third"} {
		s.create(service{name: name})
		s.refused(name, reason.PoolExhausted, s.name)
		// The ages of Kubernetes objects have a resolution of one second.
		if err := harness.Pause(t.Context(), 1100*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	empty := func(names ...string) {
		t.Helper()
		var problems []error
		for _, name := range names {
			svc, err := lab.Service(t.Context(), s.name, name)
			if err == nil && len(harness.Addresses(svc)) > 0 {
				err = fmt.Errorf("%s was served before its turn: %v", name, harness.Addresses(svc))
			}
			problems = append(problems, err)
		}
		if err := errors.Join(problems...); err != nil {
			t.Error(err)
		}
	}
	s.patchPool(`{"addresses":["172.20.249.90-172.20.249.91"]}`)
	took := s.has("c-first", "172.20.249.91")
	t.Logf("the oldest was served %s after the pool was widened", took)
	// On a machine that does nothing else it takes a tenth of a second.
	if limit := 10 * time.Second; took > limit {
		t.Errorf("the oldest was served after %s, want at most %s", took, limit)
	}
	empty("b-second", "a-third")

	s.kubectl("delete", "svc", "-n", s.name, "holder")
	// One second of it is the quarantine in which the old owner falls silent.
	took = s.has("b-second", "172.20.249.90")
	t.Logf("the next was served %s after a Service was deleted", took)
	if limit := 10 * time.Second; took > limit {
		t.Errorf("the next was served after %s, want at most %s", took, limit)
	}
	empty("a-third")
	s.refused("a-third", reason.PoolExhausted)
}
