// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"strings"
	"testing"
)

// A row that missed its limit, or was not done as often as meant, must say so in the report
// and fail the soak.
func TestReport(t *testing.T) {
	t.Parallel()
	s := &soak{c: &Config{Progress: t.Output(), Rate: 1000}}
	for _, tt := range []struct {
		name   string
		values []float64
		failed bool
	}{
		{"all within", []float64{100, 200, 300, 900}, false},
		{"median", []float64{100, 400, 500, 600}, true},
		{"most", []float64{100, 200, 300, 1100}, true},
		{"too few", []float64{100, 200}, true},
	} {
		r, end := s.row(tt.name, 4, "ms", "")
		for _, v := range tt.values {
			r.add(v)
		}
		r.limit(300, 1000)
		end()
		if failed := len(r.Faults) > 0; failed != tt.failed {
			t.Errorf("%s: faults %v, want some: %v", tt.name, r.Faults, tt.failed)
		}
	}
	rep := &Report{Rows: s.rows}
	if n := len(rep.Faults()); n != 3 {
		t.Errorf("%d faults, want 3: %v", n, rep.Faults())
	}
	text := rep.Markdown(s.c)
	if strings.Count(text, "**failed**") != 3 || strings.Count(text, "| held |") != 1 || !strings.Contains(text, "| too few | 2 of 4 | 150 (100–200) ms |") {
		t.Error(text)
	}
}

func TestPartsHaveNames(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, p := range Parts() {
		if p == "" || seen[p] {
			t.Errorf("part %q is there twice, or has no name", p)
		}
		seen[p] = true
	}
}
