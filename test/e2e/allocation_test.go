// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/test/harness"
)

// TestAllocation shows what Services ask for and what comes of it.
func TestAllocation(t *testing.T) {
	together(t, map[string]func(s *scenario){
		"requested address":       requestedAddress,
		"conflicting annotations": conflictingAnnotations,
		"wiped status":            statusWiped,
		"bad pools":               badPools,
		"pool covers nodes":       poolCoversNodes,
		"oldest first":            oldestFirst,
	})
}

// condition waits until a record's condition has a reason, and returns its status.
func (s *scenario) condition(service, kind string, want reason.Reason) metav1.ConditionStatus {
	s.t.Helper()
	var status metav1.ConditionStatus
	s.eventually(patience, func(ctx context.Context) error {
		rec, err := lab.Record(ctx, s.name, service)
		if err != nil {
			return err
		}
		st, why := harness.Condition(rec.Status.Conditions, kind)
		if why != want.String() {
			return fmt.Errorf("condition %s of %s is %q, reason %q; want reason %q", kind, service, st, why, want)
		}
		status = st
		return nil
	})
	return status
}

// requestedAddress asks for addresses that can be had and for others.
func requestedAddress(s *scenario) {
	t := s.t
	s.begin("requested", "172.20.251.20-172.20.251.29")
	s.apply(s.serviceManifest("wanted", `fairlead.dev/addresses: "172.20.251.25"`, ""))
	if a := s.address("wanted"); a != "172.20.251.25" {
		t.Errorf("wanted got %s, want the address that it asked for", a)
	}
	s.apply(s.serviceManifest("field", "", "loadBalancerIP: 172.20.251.26"))
	if a := s.address("field"); a != "172.20.251.26" {
		t.Errorf("field got %s, want the address of spec.loadBalancerIP", a)
	}
	for name, tc := range map[string]struct {
		annotation string
		want       reason.Reason
	}{
		"taken":    {annotation: `fairlead.dev/addresses: "172.20.251.25"`, want: reason.AddressInUse},
		"outside":  {annotation: `fairlead.dev/addresses: "172.20.250.1"`, want: reason.AddressNotInPool},
		"nonsense": {annotation: `metallb.io/loadBalancerIPs: "172.20.251.400"`, want: reason.InvalidAnnotation},
		"nopool":   {annotation: `fairlead.dev/pool: "no-such-pool"`, want: reason.PoolNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			s.apply(s.serviceManifest(name, tc.annotation, ""))
			if st := s.condition(name, v1alpha1.ConditionAllocated, tc.want); st != metav1.ConditionFalse {
				t.Errorf("Allocated is %q, want False", st)
			}
			s.eventually(patience, func(ctx context.Context) error {
				if n := s.events(ctx, name)[tc.want.String()]; n != 1 {
					return fmt.Errorf("%d events %s, want 1", n, tc.want)
				}
				return nil
			})
		})
	}
	// The cause goes: the request is fulfilled without any further change of the Service.
	s.kubectl("delete", "svc", "-n", s.name, "wanted")
	if a := s.address("taken"); a != "172.20.251.25" {
		t.Errorf("taken got %s, want the address that it asked for", a)
	}
}

// conflictingAnnotations asks in two ways.
func conflictingAnnotations(s *scenario) {
	t := s.t
	s.begin("conflicting", "172.20.251.30-172.20.251.39")
	s.apply(s.serviceManifest("two", `fairlead.dev/addresses: "172.20.251.35", metallb.io/loadBalancerIPs: "172.20.251.36"`, ""))
	if a := s.address("two"); a != "172.20.251.35" {
		t.Errorf("two got %s, want the address of the fairlead.dev annotation", a)
	}
	s.eventually(patience, func(ctx context.Context) error {
		if n := s.events(ctx, "two")[reason.ConflictingAnnotations.String()]; n != 1 {
			return fmt.Errorf("%d events ConflictingAnnotations, want 1", n)
		}
		return nil
	})
	s.apply(s.serviceManifest("synonym", `metallb.universe.tf/loadBalancerIPs: "172.20.251.37"`, ""))
	if a := s.address("synonym"); a != "172.20.251.37" {
		t.Errorf("synonym got %s, want the address of MetalLB's annotation", a)
	}
}

// statusWiped removes an address from a status by hand.
func statusWiped(s *scenario) {
	t := s.t
	s.begin("wiped", "172.20.251.40/32")
	s.apply(s.serviceManifest("web", "", ""))
	a := s.address("web")
	s.kubectl("patch", "svc", "-n", s.name, "web", "--subresource=status", "--type=merge", "-p", `{"status":{"loadBalancer":{"ingress":null}}}`)
	took := s.eventually(patience, func(ctx context.Context) error {
		got, err := lab.Address(ctx, s.name, "web")
		if err == nil && got != a {
			err = fmt.Errorf("address %s, want %s back", got, a)
		}
		return err
	})
	t.Logf("repaired after %s", took)
}

// badPools has pools that cannot be used.
func badPools(s *scenario) {
	t := s.t
	s.begin("badpools", "172.20.251.60-172.20.251.69")
	t.Run("overlap", func(t *testing.T) {
		s.apply(poolManifest("badpools-younger", "172.20.251.65-172.20.251.75", "none"))
		t.Cleanup(func() { cleanUp(t, "delete", "ipaddresspool.fairlead.dev", "badpools-younger") })
		s.poolReason("badpools-younger", metav1.ConditionFalse, reason.Overlap)
		s.poolReason("badpools", metav1.ConditionTrue, reason.Valid)
	})
	for name, addresses := range map[string]string{
		"nonsense": "nonsense", "backwards": "172.20.251.9-172.20.251.1", "mixed": `"172.20.251.1-fd00::1"`, "none": "",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := lab.Apply(t.Context(), poolManifest("badpools-bad", addresses, "none"))
			if err == nil {
				t.Cleanup(func() { cleanUp(t, "delete", "ipaddresspool.fairlead.dev", "badpools-bad") })
				s.poolReason("badpools-bad", metav1.ConditionFalse, reason.InvalidAddresses)
				return
			}
			if !strings.Contains(err.Error(), "spec.addresses") {
				t.Errorf("refused with %q, want the field named", err)
			}
		})
	}
}

// poolReason waits until a pool's Ready condition is as wanted.
func (s *scenario) poolReason(pool string, status metav1.ConditionStatus, want reason.Reason) {
	s.t.Helper()
	s.eventually(patience, func(ctx context.Context) error {
		p, err := harness.Get[*v1alpha1.IPAddressPool](ctx, lab, "ipaddresspool.fairlead.dev", pool)
		if err != nil {
			return err
		}
		st, why := harness.Condition(p.Status.Conditions, v1alpha1.ConditionReady)
		if st != status || why != want.String() {
			return fmt.Errorf("pool %s: Ready is %q, reason %q; want %q, %q", pool, st, why, status, want)
		}
		return nil
	})
}

// poolCoversNodes has a pool with every node's own address and one more.
func poolCoversNodes(s *scenario) {
	t := s.t
	s.begin("nodepool", "172.20.0.2-172.20.0.5, 192.168.10.101-192.168.10.103, 172.20.251.80/32")
	s.apply(s.serviceManifest("web", "", ""))
	if a := s.address("web"); a != "172.20.251.80" {
		t.Errorf("web got %s, want 172.20.251.80, the only address that is no node's", a)
	}
	s.poolConflict(metav1.ConditionTrue, reason.OverlapsNode)
	s.poolReason(s.name, metav1.ConditionTrue, reason.Valid)
	s.apply(s.serviceManifest("asks", `fairlead.dev/addresses: "172.20.0.3"`, ""))
	if st := s.condition("asks", v1alpha1.ConditionAllocated, reason.AddressReserved); st != metav1.ConditionFalse {
		t.Errorf("Allocated is %q, want False", st)
	}
}
