// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// kernelPackage depends on the distribution's current kernel with all its modules. That of
// clouds lacks 9p.
const kernelPackage = "linux-image-amd64"

// Kernel is an unpacked one.
type Kernel struct {
	// Image is the file that boots, Modules the directory with modules.dep.
	Image, Modules string
}

// DefaultKernelDir is where the kernel is unpacked: fairlead/kernel below the user's cache
// directory.
func DefaultKernelDir() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache: %w", err)
	}
	return filepath.Join(cache, "fairlead", "kernel"), nil
}

// FindKernel returns the kernel unpacked in a directory. If there is none, it takes the
// distribution's package and unpacks it there, without installing it.
func FindKernel(ctx context.Context, dir string) (Kernel, error) {
	k, err := kernelIn(dir)
	if err == nil {
		return k, nil
	}
	if err := unpackKernel(ctx, dir); err != nil {
		return Kernel{}, fmt.Errorf("get a kernel: %w", err)
	}
	return kernelIn(dir)
}

func kernelIn(dir string) (Kernel, error) {
	images, _ := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	deps, _ := filepath.Glob(filepath.Join(dir, "lib", "modules", "*", "modules.dep"))
	if len(images) != 1 || len(deps) != 1 {
		return Kernel{}, fmt.Errorf("find a kernel: %d images and %d lists of modules in %s, want one each", len(images), len(deps), dir)
	}
	return Kernel{Image: images[0], Modules: filepath.Dir(deps[0])}, nil
}

// unpackKernel puts the directory in place by a rename, so that it is always complete.
func unpackKernel(ctx context.Context, dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o750); err != nil {
		return fmt.Errorf("make the cache: %w", err)
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), ".kernel-")
	if err != nil {
		return fmt.Errorf("make the cache: %w", err)
	}
	defer os.RemoveAll(work)
	name, err := kernelName(ctx)
	if err != nil {
		// The lists of packages may be missing or old.
		if _, err := command(ctx, work, "apt-get", "update", "-qq"); err != nil {
			return err
		}
		if name, err = kernelName(ctx); err != nil {
			return err
		}
	}
	if _, err := command(ctx, work, "apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", name); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(files) != 1 {
		return fmt.Errorf("download %s: %d packages, %w", name, len(files), err)
	}
	root := filepath.Join(work, "root")
	if _, err := command(ctx, work, "dpkg", "-x", files[0], root); err != nil {
		return err
	}
	modules, err := filepath.Glob(filepath.Join(root, "lib", "modules", "*"))
	if err != nil || len(modules) != 1 {
		return fmt.Errorf("unpack %s: %d versions of modules, %w", name, len(modules), err)
	}
	if _, err := command(ctx, work, "depmod", "-b", root, filepath.Base(modules[0])); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("replace an incomplete kernel: %w", err)
	}
	return os.Rename(root, dir) //nolint:wrapcheck // names both
}

// kernelName is the package that the distribution's own one depends on.
func kernelName(ctx context.Context) (string, error) {
	out, err := command(ctx, "", "apt-cache", "depends", kernelPackage)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: linux-image-"); ok {
			return "linux-image-" + name, nil
		}
	}
	return "", errors.New(kernelPackage + ": no such package, or it depends on no kernel")
}

func command(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // arguments are this package's own
	cmd.Dir = dir
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(errOut.Bytes()))
	}
	return string(out), nil
}

// load lists the files of modules and of all that they need, in the order in which they are
// to be loaded. What is built into the kernel is in no list.
func (k Kernel) load(names ...string) ([]string, error) {
	b, err := os.ReadFile(filepath.Join(k.Modules, "modules.dep"))
	if err != nil {
		return nil, fmt.Errorf("read the modules' needs: %w", err)
	}
	needs := map[string][]string{}
	for line := range strings.Lines(string(b)) {
		file, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		name, _, _ := strings.Cut(filepath.Base(file), ".ko")
		// modules.dep(5): what is needed first comes last.
		list := strings.Fields(rest)
		for i, j := 0, len(list)-1; i < j; i, j = i+1, j-1 {
			list[i], list[j] = list[j], list[i]
		}
		needs[name] = append(list, file)
	}
	var out []string
	seen := map[string]bool{}
	for _, name := range names {
		for _, file := range needs[name] {
			if !seen[file] {
				seen[file] = true
				out = append(out, filepath.Join(k.Modules, file))
			}
		}
	}
	return out, nil
}
