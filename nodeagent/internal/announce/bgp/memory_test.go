// SPDX-License-Identifier: Apache-2.0

//go:build !kernel

package bgp

import (
	"fmt"
	"runtime"
	"testing"
)

// A node may have as many sessions as there are routers: one must not cost megabytes.
func TestASessionTakesLittleMemory(t *testing.T) {
	s := begin(t, Options{})
	var sizes []uint64
	plan := planOf(nil)
	for i := range 4 {
		p := newStranger(t, fmt.Sprintf("127.0.0.%d", i+2), decent)
		plan.Sessions = append(plan.Sessions, p.spec(fmt.Sprint(i)))
		s.Apply(plan, lab)
		awaitState(t, s, fmt.Sprint(i), Established)
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		sizes = append(sizes, m.HeapAlloc)
	}
	if each := (sizes[3] - min(sizes[0], sizes[3])) / 3; each > 3<<20 {
		t.Errorf("a session takes %d octets", each)
	} else {
		t.Logf("a session takes %d octets", each)
	}
}
