// SPDX-License-Identifier: Apache-2.0

//go:build ipvs

package dataplane

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestDataPlane is one world and everything that happens in it: its start is most of the
// cost. Parts run one after the other; nothing runs after the last, which uninstalls.
func TestDataPlane(t *testing.T) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	// Memory is cheaper than the emulated processor; every program here inherits it.
	t.Setenv("GOGC", "400")
	outside, host := os.Getenv("FAIRLEAD_OUTSIDE"), os.Getenv("FAIRLEAD_OUTSIDE_HOST")
	if outside == "" {
		t.Fatal("no control plane: run this by make test-ipvs PKG=./test/dataplane")
	}
	w, err := Start(t.Context(), Options{Root: root, Dir: dir, Outside: outside, Host: host, Progress: os.Stdout})
	t.Cleanup(func() {
		if t.Failed() {
			showLogs(t, dir)
		}
		if err := w.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for _, mode := range modes() {
		t.Run(string(mode), func(t *testing.T) {
			if err := w.Use(t.Context(), mode); err != nil {
				t.Fatal(err)
			}
			w.say("kube-proxy runs in %s mode", mode)
			t.Run("matrix", func(t *testing.T) { testMatrix(t, w, mode) })
			if mode == NFTables || full() {
				t.Run("features", func(t *testing.T) { testFeatures(t, w, mode) })
			}
			// Its kube-proxy flushes all of IPVS when it starts.
			if mode == NFTables {
				t.Run("round-robin", func(t *testing.T) { testRoundRobin(t, w) })
				t.Run("maglev", func(t *testing.T) { testMaglev(t, w) })
				t.Run("policy", func(t *testing.T) { testPolicy(t, w) })
			}
			if mode == NFTables || full() {
				t.Run("repair", func(t *testing.T) { testRepair(t, w, mode) })
				t.Run("stream", func(t *testing.T) { testStream(t, w, mode) })
				t.Run("power-cut", func(t *testing.T) { testPowerCut(t, w) })
			}
			if mode == IPVS && full() {
				t.Run("without-excludeCIDRs", func(t *testing.T) { testWithoutExclude(t, w) })
			}
		})
	}
	t.Run("leave", func(t *testing.T) { testLeave(t, w) })
	w.say("all of it took %.0f s", time.Since(began).Seconds())
}

// showLogs prints the end of every log, where only the test's output is kept.
func showLogs(t *testing.T, dir string) {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		t.Error(err)
	}
	for _, path := range logs {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
			continue
		}
		t.Logf("the end of %s:\n%s", filepath.Base(path), b[max(0, len(b)-3000):])
	}
}

// full says whether to do everything in every mode, as the soak does.
func full() bool { return os.Getenv("FAIRLEAD_DATAPLANE") == "full" }

// modes that FAIRLEAD_DATAPLANE_MODES names, separated by commas, or all.
func modes() []Mode {
	var out []Mode
	for m := range strings.SplitSeq(os.Getenv("FAIRLEAD_DATAPLANE_MODES"), ",") {
		if m != "" {
			out = append(out, Mode(m))
		}
	}
	if len(out) == 0 {
		out = Modes()
	}
	return out
}
