// SPDX-License-Identifier: Apache-2.0

package loadbalancer_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

func TestParseCommunity(t *testing.T) {
	t.Parallel()
	aliases := map[string]loadbalancer.Community{
		"customers": {A: 65000, B: 7},
		"no-export": {A: 1, B: 2},
	}
	for word, want := range map[string]loadbalancer.Community{
		"65000:1":     {A: 65000, B: 1},
		"0:0":         {},
		"65535:65535": {A: 65535, B: 65535},
		"large:4294967295:0:1": {
			Kind: loadbalancer.LargeCommunity, A: math.MaxUint32, C: 1,
		},
		"target:65535:4294967295": {Kind: loadbalancer.RouteTarget, A: 65535, B: math.MaxUint32},
		"target:65536:65535":      {Kind: loadbalancer.RouteTarget, A: 65536, B: 65535},
		"origin:192.0.2.1:7":      {Kind: loadbalancer.RouteOrigin, A: 0xc0000201, B: 7, Address: true},
		"origin:1:2":              {Kind: loadbalancer.RouteOrigin, A: 1, B: 2},
		"customers":               {A: 65000, B: 7},
		"no-export":               {A: 1, B: 2}, // the alias comes first
		"no-advertise":            {A: 65535, B: 65282},
		"no-export-subconfed":     {A: 65535, B: 65283},
		"local-as":                {A: 65535, B: 65283},
		"no-peer":                 {A: 65535, B: 65284},
		"blackhole":               {A: 65535, B: 666},
		"graceful-shutdown":       loadbalancer.GracefulShutdown(),
	} {
		if got, err := loadbalancer.ParseCommunity(word, aliases); err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", word, got, err, want)
		}
	}
	if got, err := loadbalancer.ParseCommunity("no-export", nil); err != nil || got != (loadbalancer.Community{A: 65535, B: 65281}) {
		t.Errorf("no-export without alias: %v, %v", got, err)
	}
	for _, word := range []string{
		"", ":", "1", "1:", ":1", "65536:1", "1:65536", "1:2:3", "-1:1", "+1:1", "1:0x1", " 1:1", "1:1 ", "1_0:1",
		"large:1:2", "large:1:2:3:4", "large:4294967296:1:1", "LARGE:1:2:3", "target:65536:65536", "target:192.0.2.1:65536",
		"target:2001:db8::1:1", "target:1", "origin:4294967296:1", "No-Export", "unknown",
	} {
		got, err := loadbalancer.ParseCommunity(word, aliases)
		if err == nil || got != (loadbalancer.Community{}) || !strings.Contains(err.Error(), "no community") {
			t.Errorf("%q: %+v, %v, want an error", word, got, err)
		}
	}
}

// anyCommunity draws communities that can be told.
func anyCommunity() *rapid.Generator[loadbalancer.Community] {
	return rapid.Custom(func(t *rapid.T) loadbalancer.Community {
		u16, u32 := rapid.Uint32Range(0, math.MaxUint16), rapid.Uint32()
		switch kind := rapid.SampledFrom([]loadbalancer.CommunityKind{
			loadbalancer.StandardCommunity, loadbalancer.LargeCommunity, loadbalancer.RouteTarget, loadbalancer.RouteOrigin,
		}).Draw(t, "kind"); kind {
		case loadbalancer.StandardCommunity:
			return loadbalancer.Community{A: u16.Draw(t, "a"), B: u16.Draw(t, "b")}
		case loadbalancer.LargeCommunity:
			return loadbalancer.Community{Kind: kind, A: u32.Draw(t, "a"), B: u32.Draw(t, "b"), C: u32.Draw(t, "c")}
		case loadbalancer.RouteTarget, loadbalancer.RouteOrigin:
			switch rapid.IntRange(0, 2).Draw(t, "form") {
			case 0:
				return loadbalancer.Community{Kind: kind, A: u16.Draw(t, "a"), B: u32.Draw(t, "b")}
			case 1:
				return loadbalancer.Community{Kind: kind, A: rapid.Uint32Min(math.MaxUint16+1).Draw(t, "a"), B: u16.Draw(t, "b")}
			default:
				return loadbalancer.Community{Kind: kind, A: u32.Draw(t, "a"), B: u16.Draw(t, "b"), Address: true}
			}
		default:
			return loadbalancer.Community{}
		}
	})
}

// What is written is read again as the same, and the order is one.
func TestCommunitiesProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOf(anyCommunity()).Draw(t, "communities")
		for _, c := range all {
			if got, err := loadbalancer.ParseCommunity(c.String(), nil); err != nil || got != c {
				t.Fatalf("%+v is written %q and read as %+v, %v", c, c, got, err)
			}
		}
		sorted := loadbalancer.SortCommunities(all...)
		for i := 1; i < len(sorted); i++ {
			if sorted[i-1].Compare(sorted[i]) >= 0 || sorted[i].Compare(sorted[i-1]) <= 0 {
				t.Fatalf("%v before %v", sorted[i-1], sorted[i])
			}
		}
		for _, c := range all {
			if !slices.Contains(sorted, c) {
				t.Fatalf("%v is lost", c)
			}
		}
		slices.Reverse(all)
		if again := loadbalancer.SortCommunities(all...); !slices.Equal(again, sorted) {
			t.Fatalf("%v and %v", again, sorted)
		}
	})
}

func FuzzParseCommunity(f *testing.F) {
	for _, s := range append(loadbalancer.WellKnownCommunities(), "65000:1", "large:1:2:3", "target:192.0.2.1:1", "origin:70000:1", "large:", "1:2:3", "target::1") {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := loadbalancer.ParseCommunity(text, nil)
		if err != nil {
			return
		}
		if again, err := loadbalancer.ParseCommunity(got.String(), nil); err != nil || again != got {
			t.Errorf("%q is read as %+v, written %q and read as %+v, %v", text, got, got, again, err)
		}
		if got.Kind == loadbalancer.StandardCommunity && (got.A > math.MaxUint16 || got.B > math.MaxUint16) {
			t.Errorf("%q is read as %+v", text, got)
		}
	})
}
