// SPDX-License-Identifier: Apache-2.0

package artifacts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// heartbeat is how often a running build says that it still runs.
const heartbeat = 15 * time.Second

// Builder finds or makes binaries.
type Builder struct {
	// Cache is the cache's root; see DefaultCache.
	Cache string
	// BinDir, if set, is looked at first: a binary found there is taken as is.
	BinDir string
	Log    Logger
}

// DefaultCache is fairlead/bin below the user's cache directory.
func DefaultCache() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cache directory: %w", err)
	}
	return filepath.Join(dir, "fairlead", "bin"), nil
}

// Ensure returns the path of every target by name, building what is missing,
// one after the other.
func (b *Builder) Ensure(ctx context.Context, targets []Target) (map[string]string, error) {
	p, err := hostPlatform(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	var missing []Target
	for i := range targets {
		path, err := b.find(&targets[i], p)
		if err != nil {
			return nil, err
		}
		if out[targets[i].Name] = path; !isFile(path) {
			missing = append(missing, targets[i])
		}
	}
	if len(missing) == 0 {
		b.Log("all %d binaries are there, nothing to build", len(targets))
		return out, nil
	}
	began := time.Now()
	b.Log("building %d of %d binaries into %s; the first time takes 10 to 20 minutes", len(missing), len(targets), b.Cache)
	for i := range missing {
		t := &missing[i]
		if err := b.build(ctx, t, out[t.Name], fmt.Sprintf("[%d/%d]", i+1, len(missing))); err != nil {
			return nil, err
		}
	}
	b.Log("built %d binaries in %.0f s", len(missing), time.Since(began).Seconds())
	return out, nil
}

func hostPlatform(ctx context.Context) (platform, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOVERSION").Output()
	if err != nil {
		return platform{}, fmt.Errorf("the go command is needed to build the lab's binaries: %w", err)
	}
	return platform{goVersion: strings.TrimSpace(string(out)), goos: runtime.GOOS, goarch: runtime.GOARCH}, nil
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// find is where a target's binary is or will be.
func (b *Builder) find(t *Target, p platform) (string, error) {
	if b.BinDir != "" {
		path, err := filepath.Abs(filepath.Join(b.BinDir, t.Name))
		if err != nil {
			return "", fmt.Errorf("--bin-dir: %w", err)
		}
		if isFile(path) {
			return path, nil
		}
	}
	key, err := t.key(p)
	if err != nil {
		return "", err
	}
	return filepath.Join(b.Cache, key, filepath.Base(t.Name)), nil
}

// build makes one binary. It is put in place by a rename, so that a binary in
// the cache is always complete.
func (b *Builder) build(ctx context.Context, t *Target, target, count string) error {
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	dir, err := os.MkdirTemp(b.Cache, ".build-")
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	defer os.RemoveAll(dir)
	mod, sum, err := t.wrapper()
	if err != nil {
		return err
	}
	err = errors.Join(os.WriteFile(filepath.Join(dir, "go.mod"), mod, 0o600), os.WriteFile(filepath.Join(dir, "go.sum"), sum, 0o600))
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	began := time.Now()
	b.Log("%s building %s", count, t.Name)
	if err := b.watch(t.Name, began, t.command(ctx, dir)); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(dir, "out"), target); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	info, err := os.Stat(target)
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	b.Log("%s built %s: %.0f s, %.0f MiB", count, t.Name, time.Since(began).Seconds(), float64(info.Size())/(1<<20))
	return nil
}

func (t *Target) command(ctx context.Context, dir string) *exec.Cmd {
	args := []string{"build", "-mod=readonly", "-buildvcs=false", "-trimpath", "-o", filepath.Join(dir, "out"), "-ldflags", t.LDFlags}
	if len(t.Tags) > 0 {
		args = append(args, "-tags", strings.Join(t.Tags, ","))
	}
	cgo := "CGO_ENABLED=0"
	if t.Cgo {
		cgo = "CGO_ENABLED=1"
	}
	cmd := exec.CommandContext(ctx, "go", append(args, t.Package)...) //nolint:gosec // arguments come from Targets
	cmd.Dir = dir
	// The compilers must not outlive an interrupted build.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// The user's GOFLAGS could change the result behind the key's back.
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "GOTOOLCHAIN=local", cgo)
	return cmd
}

// watch runs a build and says every heartbeat that it goes on.
func (b *Builder) watch(name string, began time.Time, cmd *exec.Cmd) error {
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("build %s: %w", name, err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if err != nil {
				return fmt.Errorf("build %s: %w\n%s", name, err, bytes.TrimSpace(output.Bytes()))
			}
			return nil
		case <-tick.C:
			b.Log("      still building %s: %.0f s", name, time.Since(began).Seconds())
		}
	}
}

// Prune removes cached binaries that no target refers to any more and returns
// how many directories went.
func (b *Builder) Prune(ctx context.Context, targets []Target) (int, error) {
	p, err := hostPlatform(ctx)
	if err != nil {
		return 0, err
	}
	keep := map[string]bool{}
	for i := range targets {
		key, err := targets[i].key(p)
		if err != nil {
			return 0, err
		}
		keep[key] = true
	}
	entries, err := os.ReadDir(b.Cache)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("cache: %w", err)
	}
	removed := 0
	for _, e := range entries {
		if keep[e.Name()] {
			continue
		}
		if err := os.RemoveAll(filepath.Join(b.Cache, e.Name())); err != nil {
			return removed, fmt.Errorf("cache: %w", err)
		}
		removed++
	}
	return removed, nil
}
