// SPDX-License-Identifier: Apache-2.0

package artifacts

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTargetsAreComplete(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, target := range append(Targets(), PolicyEnforcer()) {
		if seen[target.Name] {
			t.Errorf("%s is listed twice", target.Name)
		}
		seen[target.Name] = true
		mod, sum, err := target.wrapper()
		if err != nil {
			t.Fatal(err)
		}
		root := strings.Join(strings.Split(target.Package, "/")[:2], "/")
		if !strings.Contains(string(mod), root) || !strings.Contains(string(sum), root) {
			t.Errorf("%s: module %s does not pin %s", target.Name, target.Module, root)
		}
	}
	for _, name := range []string{"etcd", "kubelet", "containerd-shim-runc-v2", "cni/ptp", "runc"} {
		if !seen[name] {
			t.Errorf("%s is missing", name)
		}
	}
	mod, _, err := Targets()[1].wrapper()
	if err != nil || !strings.Contains(string(mod), "k8s.io/kubernetes "+KubernetesVersion) {
		t.Errorf("the pinned module is not Kubernetes %s: %v", KubernetesVersion, err)
	}
}

func TestKeyChangesWithEveryInput(t *testing.T) {
	t.Parallel()
	base := Target{Name: "a", Module: "etcd", Package: "p", LDFlags: "-s", Tags: []string{"x"}}
	p := platform{"go1.26.0", "linux", "amd64"}
	variants := map[string]func(t *Target, p *platform){
		"go version": func(_ *Target, p *platform) { p.goVersion = "go1.26.1" },
		"goos":       func(_ *Target, p *platform) { p.goos = "plan9" },
		"goarch":     func(_ *Target, p *platform) { p.goarch = "arm64" },
		"module":     func(t *Target, _ *platform) { t.Module = "runc" },
		"package":    func(t *Target, _ *platform) { t.Package = "q" },
		"ldflags":    func(t *Target, _ *platform) { t.LDFlags = "-w" },
		"tags":       func(t *Target, _ *platform) { t.Tags = nil },
		"cgo":        func(t *Target, _ *platform) { t.Cgo = true },
	}
	want, err := base.key(p)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := base.key(p); err != nil || again != want {
		t.Errorf("the key is not stable: %s, %s, %v", want, again, err)
	}
	for name, change := range variants {
		v, vp := base, p
		change(&v, &vp)
		if got, err := v.key(vp); err != nil || got == want {
			t.Errorf("%s does not change the key (%v)", name, err)
		}
	}
}

// fakeGo puts a go command on PATH that counts its builds and fails for
// packages whose name ends in "broken".
func fakeGo(t *testing.T) (count func() int) {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "builds")
	script := fmt.Sprintf(`#!/bin/sh
if [ "$1" = env ]; then echo go1.26.0; exit 0; fi
for last; do :; done
test -f go.mod && test -f go.sum || { echo "no pinned module"; exit 1; }
case "$last" in *broken) echo "compile error"; exit 1;; esac
echo "$last" >> %s
while [ "$1" != -o ]; do shift; done
echo binary > "$2"
`, log)
	if err := os.WriteFile(filepath.Join(dir, "go"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() int {
		b, err := os.ReadFile(log)
		if err != nil {
			return 0
		}
		return strings.Count(string(b), "\n")
	}
}

func TestEnsureBuildsOnce(t *testing.T) {
	builds := fakeGo(t)
	var lines []string
	b := &Builder{Cache: filepath.Join(t.TempDir(), "cache"), Log: func(f string, a ...any) { lines = append(lines, fmt.Sprintf(f, a...)) }}
	targets := []Target{{Name: "etcd", Module: "etcd", Package: "x/etcd"}, {Name: "cni/ptp", Module: "cni", Package: "x/ptp"}}
	paths, err := b.Ensure(t.Context(), targets)
	if err != nil {
		t.Fatal(err)
	}
	if builds() != 2 || !isFile(paths["etcd"]) || filepath.Base(paths["cni/ptp"]) != "ptp" {
		t.Errorf("%d builds, paths %v", builds(), paths)
	}
	lines = nil
	again, err := b.Ensure(t.Context(), targets)
	if err != nil || builds() != 2 || again["etcd"] != paths["etcd"] {
		t.Errorf("the second run built: %d builds, %v, %v", builds(), again, err)
	}
	if len(lines) != 1 || !strings.Contains(lines[0], "nothing to build") {
		t.Errorf("the second run says %q", lines)
	}
	if n, err := b.Prune(t.Context(), targets[:1]); n != 1 || err != nil || isFile(paths["cni/ptp"]) || !isFile(paths["etcd"]) {
		t.Errorf("Prune removed %d, %v", n, err)
	}
}

func TestEnsureTakesTheUsersBinaries(t *testing.T) {
	builds := fakeGo(t)
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "etcd"), []byte("mine"), 0o755); err != nil {
		t.Fatal(err)
	}
	b := &Builder{Cache: filepath.Join(t.TempDir(), "cache"), BinDir: bin, Log: func(string, ...any) {}}
	paths, err := b.Ensure(t.Context(), []Target{{Name: "etcd", Module: "etcd", Package: "x/etcd"}})
	if err != nil || builds() != 0 || paths["etcd"] != filepath.Join(bin, "etcd") {
		t.Errorf("%d builds, %v, %v", builds(), paths, err)
	}
}

func TestFailedBuildLeavesNothing(t *testing.T) {
	fakeGo(t)
	b := &Builder{Cache: filepath.Join(t.TempDir(), "cache"), Log: func(string, ...any) {}}
	target := Target{Name: "etcd", Module: "etcd", Package: "x/broken"}
	_, err := b.Ensure(t.Context(), []Target{target})
	if err == nil || !strings.Contains(err.Error(), "compile error") {
		t.Fatalf("got %v, want the compiler's words", err)
	}
	left, err := filepath.Glob(filepath.Join(b.Cache, "*", "*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	hidden, err := filepath.Glob(filepath.Join(b.Cache, ".build-*"))
	if err != nil || len(hidden) != 0 {
		t.Errorf("left behind: %v, %v", hidden, err)
	}
}
