// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"strings"
	"testing"

	"github.com/fairlead-lb/fairlead/test/bench/bgp/field"
)

// What was measured is shown, and what was not is not shown as if it were.
func TestReport(t *testing.T) {
	t.Parallel()
	r := &Result{
		Routes: []Routes{{Routes: 1000, Told: Wave{FRRMs: 146, BIRDMs: 139}, One: One{Ms: field.NewStat([]float64{70, 90, 80}), Updates: 1}}, {Routes: 10000}},
		Cuts:   []Cuts{{How: "BFD", Cuts: []field.Cut{{BlackoutMs: 300}, {BlackoutMs: 100, Others: 2}}, Blackout: field.NewStat([]float64{300, 100})}},
	}
	text := r.Markdown()
	for _, want := range []string{
		"| routes | 1000 | 10000 |", "| 146 / 139 | 0 / 0 |", "| 80.0 (70.0–90.0) |", "not measured",
		"| BFD | 2 | **200 (100–300)** | – | 2 | 100 300 |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	r.MetalLB, r.MetalLBVersion, r.Cuts = r.Routes[:1], "speaker v1", nil
	if text := r.Markdown(); !strings.Contains(text, "speaker v1") || strings.Contains(text, "not measured") || strings.Contains(text, "Power cuts") {
		t.Error(text)
	}
}
