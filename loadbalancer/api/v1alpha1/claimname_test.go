// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import (
	"net/netip"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

func TestClaimName(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"172.20.255.200":   "172.20.255.200",
		"0.0.0.0":          "0.0.0.0",
		"::1":              "0000-0000-0000-0000-0000-0000-0000-0001",
		"fd00::1":          "fd00-0000-0000-0000-0000-0000-0000-0001",
		"::ffff:192.0.2.1": "192.0.2.1",
		"fe80::1%eth0":     "fe80-0000-0000-0000-0000-0000-0000-0001",
	}
	for in, want := range tests {
		a := netip.MustParseAddr(in)
		got := v1alpha1.ClaimName(a)
		if got != want {
			t.Errorf("ClaimName(%s) = %q, want %q", in, got, want)
		}
		if faults := validation.IsDNS1123Subdomain(got); len(faults) > 0 {
			t.Errorf("%q is no object name: %v", got, faults)
		}
		back, err := v1alpha1.ParseClaimName(got)
		if err != nil || back != a.Unmap().WithZone("") {
			t.Errorf("ParseClaimName(%q) = %s, %v", got, back, err)
		}
	}
}

func FuzzParseClaimName(f *testing.F) {
	for _, s := range []string{"192.0.2.1", "192.0.2.01", "fd00--1", "fd00-0000-0000-0000-0000-0000-0000-0001", "0000-0000-0000-0000-0000-ffff-c000-0201", "FD00-0000-0000-0000-0000-0000-0000-0001", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := v1alpha1.ParseClaimName(s)
		if err == nil && (v1alpha1.ClaimName(a) != s || a.Is4In6() || a.Zone() != "") {
			t.Errorf("ParseClaimName(%q) = %s", s, a)
		}
	})
}
