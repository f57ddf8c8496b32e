// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/plane"
)

const (
	cgroups = "/sys/fs/cgroup"
	// groupPrefix and the process's number name the parent group of a rig.
	groupPrefix = "fairlead-rig-"
	// period of CPU bandwidth control in microseconds, the kernel's and kubelet's default.
	period = 100000
)

// cpuTree is where CPU groups are made: the unified hierarchy, or the one of version 1.
func cpuTree() (dir string, unified bool) {
	if _, err := os.Stat(filepath.Join(cgroups, "cpu", "tasks")); err == nil {
		return filepath.Join(cgroups, "cpu"), false
	}
	return cgroups, true
}

// Limit gives the running agent at most so many thousandths of a core, as kubelet's limit
// does; 0 lifts it. A new process of the agent has no limit.
func (n *Node) Limit(millicores int) error {
	tree, unified := cpuTree()
	parent := filepath.Join(tree, groupPrefix+strconv.Itoa(os.Getpid()))
	dir := filepath.Join(parent, n.name)
	for _, d := range []string{parent, dir} {
		if unified { // the parent hands the controller down
			if err := os.WriteFile(filepath.Join(filepath.Dir(d), "cgroup.subtree_control"), []byte("+cpu"), 0o600); err != nil {
				return fmt.Errorf("limit %s: %w", n.name, err)
			}
		}
		if err := os.Mkdir(d, 0o755); err != nil && !errors.Is(err, fs.ErrExist) { //nolint:gosec // as the kernel makes them
			return fmt.Errorf("limit %s: %w", n.name, err)
		}
	}
	quota := -1
	if millicores > 0 {
		quota = millicores * period / 1000
	}
	file, text := "cpu.cfs_quota_us", strconv.Itoa(quota)
	if unified {
		file, text = "cpu.max", fmt.Sprintf("%d %d", quota, period)
		text = strings.Replace(text, "-1", "max", 1)
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
		return fmt.Errorf("limit %s: %w", n.name, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(n.agent.PID())), 0o600); err != nil {
		return fmt.Errorf("limit %s: %w", n.name, err)
	}
	return nil
}

// removeGroups removes the groups of this process and of rigs that crashed: those without
// a process in them, which the kernel refuses otherwise.
func removeGroups() error {
	tree, _ := cpuTree()
	parents, err := filepath.Glob(filepath.Join(tree, groupPrefix+"*"))
	if err != nil {
		return fmt.Errorf("find control groups: %w", err)
	}
	own := groupPrefix + strconv.Itoa(os.Getpid())
	var errs []error
	for _, p := range parents {
		children, err := filepath.Glob(filepath.Join(p, "n*"))
		errs = append(errs, err)
		for _, dir := range append(children, p) {
			if info, err := os.Stat(dir); err != nil || !info.IsDir() {
				continue
			}
			if err := unix.Rmdir(dir); err != nil && filepath.Base(p) == own {
				errs = append(errs, fmt.Errorf("remove control group %s: %w", filepath.Base(dir), err))
			}
		}
	}
	return errors.Join(errs...)
}

// Burn keeps the processors busy with so many endless loops, each a process of its own, for
// the time given.
func (r *Rig) Burn(ctx context.Context, loops int, d time.Duration) (err error) {
	var all []*plane.Process
	defer func() {
		for _, p := range all {
			err = errors.Join(err, p.Kill())
		}
	}()
	for range loops {
		p, err := plane.StartProcess(ctx, plane.Program{
			Name: "busy loop", LogFile: r.path("burn.log"), Path: "/bin/sh", Args: []string{"-c", "while :; do :; done"},
		})
		if err != nil {
			return err
		}
		all = append(all, p)
	}
	return harness.Pause(ctx, d)
}
