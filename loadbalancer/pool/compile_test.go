// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

func TestClusterRanges(t *testing.T) {
	t.Parallel()
	lan := auto("lan", "192.0.2.0/24", "2001:db8::/64")
	lan.Created = 10
	pods := func(created loadbalancer.Since, iv string) pool.ClusterRange {
		return pool.ClusterRange{Interval: interval(iv), Created: created, Object: `node "n"`}
	}
	services := pods(20, "192.0.2.128/25")
	services.Kind, services.Object = pool.ServiceRange, `ServiceCIDR "kubernetes"`
	tests := []struct {
		name            string
		ranges          []pool.ClusterRange
		fault, conflict reason.Reason
		usable          int64
		pairs           int
	}{
		{name: "elsewhere", ranges: []pool.ClusterRange{pods(1, "10.0.0.0/8"), pods(1, "2001:db8:1::/64")}, usable: 256},
		{name: "older", ranges: []pool.ClusterRange{pods(9, "192.0.2.255-192.0.3.0")}, fault: reason.OverlapsPodRange},
		{name: "of one age", ranges: []pool.ClusterRange{pods(10, "192.0.2.255-192.0.3.0")}, fault: reason.OverlapsPodRange},
		{name: "of no age", ranges: []pool.ClusterRange{pods(0, "2001:db8::1-2001:db8::1")}, fault: reason.OverlapsPodRange},
		{name: "younger", ranges: []pool.ClusterRange{pods(11, "192.0.2.255-192.0.3.0")}, conflict: reason.OverlapsPodRange, usable: 255, pairs: 1},
		{name: "two younger, the lowest first", ranges: []pool.ClusterRange{services, pods(20, "192.0.2.0/25")}, conflict: reason.OverlapsPodRange, usable: 0, pairs: 2},
		{name: "younger, over both families", ranges: []pool.ClusterRange{services, pods(20, "2001:db8::/32"), services}, conflict: reason.OverlapsServiceRange, usable: 128, pairs: 2},
		{name: "one older, one younger", ranges: []pool.ClusterRange{services, pods(1, "192.0.2.0/25")}, fault: reason.OverlapsPodRange},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := pool.Compile([]pool.Spec{lan}, tt.ranges)
			p, valid := s.ByName("lan")
			if valid != (tt.fault == "") || !valid && s.Fault("lan").Reason != tt.fault {
				t.Fatalf("valid %v, fault %v, want %q", valid, s.Fault("lan"), tt.fault)
			}
			if c := s.Conflict("lan"); (c == nil) != (tt.conflict == "") || c != nil && c.Reason != tt.conflict {
				t.Errorf("conflict %v, want %q", c, tt.conflict)
			}
			if valid && p.Usable(pool.IPv4) != tt.usable || len(s.RangeConflicts()) != tt.pairs {
				t.Errorf("conflicts %v, usable %d, want %d and %d", s.RangeConflicts(), p.Usable(pool.IPv4), tt.pairs, tt.usable)
			}
		})
	}
}

func TestReservedConflict(t *testing.T) {
	t.Parallel()
	s := pool.Compile([]pool.Spec{auto("lan", "192.0.2.0/24"), auto("other", "198.51.100.0/24")}, nil)
	l := pool.NewLedger()
	l.SetPools(s)
	p, _ := s.ByName("lan")
	if c := l.Conflict(p); c != nil {
		t.Errorf("Conflict = %v", c)
	}
	l.SetReserved(map[netip.Addr]string{
		addr("192.0.2.4"): `node "d"`, addr("192.0.2.1"): `node "a"`, addr("192.0.2.3"): `node "c"`, addr("192.0.2.2"): `node "b"`, addr("203.0.113.1"): `node "e"`,
	})
	want := `the pool has addresses of the cluster's own machines: 192.0.2.1 is the address of node "a", 192.0.2.2 is the address of node "b", 192.0.2.3 is the address of node "c" and others; they are not handed out; list them in excludedAddresses, or take them out of the pool`
	if c := l.Conflict(p); c == nil || c.Reason != reason.OverlapsNode || c.Message != want {
		t.Errorf("Conflict = %v", c)
	}
	if o, _ := s.ByName("other"); l.Conflict(o) != nil {
		t.Errorf("Conflict of another pool = %v", l.Conflict(o))
	}
}

func TestExcludedMustBeReadable(t *testing.T) {
	t.Parallel()
	bad := auto("p", "192.0.2.0/33")
	bad.Excluded = []string{"192.0.2.9"}
	f := pool.Compile([]pool.Spec{bad}, nil).Fault("p")
	if f == nil || f.Reason != reason.InvalidAddresses || !strings.Contains(f.Message, "spec.addresses") || !strings.Contains(f.Message, "spec.excludedAddresses") {
		t.Errorf("fault %v", f)
	}
}

// Overlaps are found as a comparison of each pool with each older one finds them, and
// lookups by address agree with the pools.
func TestCompileAgreesWithComparingAll(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		specs := drawSpecs().Draw(t, "pools")
		s := pool.Compile(specs, nil)
		var valid []pool.Spec
		slices.SortFunc(specs, func(a, b pool.Spec) int {
			return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.Name, b.Name))
		})
		overlap := func(a, b pool.Spec) bool {
			for _, x := range a.Addresses {
				for _, y := range b.Addresses {
					if interval(x).Overlaps(interval(y)) {
						return true
					}
				}
			}
			return false
		}
		for _, spec := range specs {
			clash := slices.ContainsFunc(valid, func(o pool.Spec) bool { return overlap(o, spec) })
			if f := s.Fault(spec.Name); clash != (f != nil) || clash && f.Reason != reason.Overlap {
				t.Fatalf("pool %s: fault %v, overlaps %v", spec.Name, f, clash)
			}
			if !clash {
				valid = append(valid, spec)
			}
		}
		a := drawAddr().Draw(t, "addr")
		want := slices.IndexFunc(valid, func(s pool.Spec) bool {
			return slices.ContainsFunc(s.Addresses, func(x string) bool { return interval(x).Contains(a) })
		})
		p, ok := s.ByAddr(a)
		if ok != (want >= 0) || ok && p.Name() != valid[want].Name {
			t.Fatalf("ByAddr(%s) = %v, %v", a, p, ok)
		}
	})
}

func TestOverlapNamesBothSides(t *testing.T) {
	t.Parallel()
	older, younger := auto("older", "192.0.2.0/24", "2001:db8::/64"), auto("younger", "192.0.3.0/24", "2001:db8::7-2001:db8::9")
	younger.Created = 1
	want := `2001:db8::7-2001:db8::9 overlaps 2001:db8::-2001:db8::ffff:ffff:ffff:ffff of the older pool "older"; take the common addresses out of one of them, no address of this pool is used until then`
	if diff := gocmp.Diff(want, fmt.Sprint(pool.Compile([]pool.Spec{younger, older}, nil).Fault("younger"))); diff != "" {
		t.Errorf("fault (-want +got):\n%s", diff)
	}
}

func FuzzParseInterval(f *testing.F) {
	for _, s := range []string{"192.0.2.0/24", "192.0.2.10-192.0.2.20", "2001:db8::/64", "::1-::2", "::ffff:1.2.3.4/120", "fe80::1%eth0-fe80::2%eth0", "1-2", "-", "/", "0.0.0.0/0", "255.255.255.255-255.255.255.255"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		iv, err := pool.ParseInterval(s)
		if err != nil {
			return
		}
		if iv.From.BitLen() != iv.To.BitLen() || iv.To.Less(iv.From) || iv.From.Is4In6() || iv.From.Zone() != "" || iv.Size() < 1 {
			t.Errorf("ParseInterval(%q) = %s", s, iv)
		}
		again, err := pool.ParseInterval(iv.From.String() + "-" + iv.To.String())
		if err != nil || again != iv {
			t.Errorf("%s does not parse back: %v", iv, err)
		}
		if p, err := netip.ParsePrefix(strings.TrimSpace(s)); err == nil && (p.Masked().Addr() != iv.From || !p.Contains(iv.To)) {
			t.Errorf("ParseInterval(%q) = %s", s, iv)
		}
	})
}
