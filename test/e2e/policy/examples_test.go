// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package policy

import (
	"path/filepath"
	"testing"
)

// What the repository shows must be accepted, every field known. Not parallel: the others,
// TestExternalIPs with its grants among them, begin after it.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "..", "..", "deploy", "examples", "*.yaml"))
	if err != nil || len(files) < 10 {
		t.Fatalf("examples: %v, %v", files, err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			out, err := cluster.run(t.Context(), "create", "--dry-run=server", "--validate=strict", "-f",
				filepath.Join("deploy", "examples", filepath.Base(f)))
			if err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}
