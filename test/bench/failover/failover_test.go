// SPDX-License-Identifier: Apache-2.0

package failover

import "testing"

func TestSummary(t *testing.T) {
	for _, tc := range []struct {
		name             string
		in               []float64
		median, low, top float64
	}{
		{name: "odd", in: []float64{9, 1, 5}, median: 5, low: 1, top: 9},
		{name: "even", in: []float64{4, 1, 2, 9}, median: 3, low: 1, top: 9},
		{name: "one", in: []float64{7}, median: 7, low: 7, top: 7},
		{name: "none"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := &Result{}
			for _, ms := range tc.in {
				r.Runs = append(r.Runs, Run{BlackoutMs: ms})
			}
			r.summarize()
			if r.MedianMs != tc.median || r.MinMs != tc.low || r.MaxMs != tc.top {
				t.Errorf("median %v min %v max %v, want %v %v %v", r.MedianMs, r.MinMs, r.MaxMs, tc.median, tc.low, tc.top)
			}
		})
	}
}
