// SPDX-License-Identifier: Apache-2.0

//go:build e2e

// Package ipam is the short form of the soak of address allocation: two controllers that
// both believe they lead, injected faults, a restarted etcd and a paused API server. It
// starts a control plane of its own and needs no lab. The full counts are test/soak's.
package ipam

import (
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/soak/ipam"
)

// TestTwoLeadersNeverGiveAnAddressTwice creates 80 Services of every kind, half of them
// while the API server is paused and etcd restarted.
func TestTwoLeadersNeverGiveAnAddressTwice(t *testing.T) {
	lab, err := harness.Open(harness.Options{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	rep, err := ipam.Run(t.Context(), ipam.Config{
		Root: lab.Root(), Dir: t.TempDir(), Phases: ipam.ShortPhases(), Services: 80, AtOnce: 40, Pace: 50 * time.Millisecond,
		RetainFor: 2 * time.Second, Seed: uint64(time.Now().UnixNano()), Progress: t.Output(),
	})
	if err != nil {
		t.Fatal(err)
	}
	var faults, services int64
	for _, p := range rep.Proxies {
		faults += p.Conflicts + p.Timeouts + p.Drops + p.Resets
	}
	for _, p := range rep.Phases {
		services += int64(p.Created)
	}
	if faults < 20 || rep.Events < 500 {
		t.Errorf("the run was too quiet to say anything: %d faults, %d revisions", faults, rep.Events)
	}
	t.Logf("seed %d: %d services, %d faults injected, %d revisions checked, no double allocation, nothing left", rep.Seed, services, faults, rep.Events)
}
