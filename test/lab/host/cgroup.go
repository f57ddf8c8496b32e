// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// hierarchy is one mounted control group tree. A machine has one (version 2),
// several (version 1) or both kinds.
type hierarchy struct {
	mountpoint string
	v2         bool
	// options are the controllers of a version 1 tree as mount(2) takes them,
	// for example "cpu,cpuacct" or "name=systemd".
	options string
}

// parseHierarchies reads the cgroup mounts out of a mountinfo file
// (proc_pid_mountinfo(5)).
func parseHierarchies(mountinfo string) []hierarchy {
	var out []hierarchy
	for line := range strings.Lines(mountinfo) {
		left, right, ok := strings.Cut(strings.TrimSpace(line), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 5 || len(r) < 3 {
			continue
		}
		switch r[0] {
		case "cgroup2":
			out = append(out, hierarchy{mountpoint: l[4], v2: true})
		case "cgroup":
			opts := slices.DeleteFunc(strings.Split(r[2], ","), func(o string) bool {
				return o == "rw" || o == "ro" || o == "xattr" || o == "clone_children" || strings.HasPrefix(o, "release_agent")
			})
			out = append(out, hierarchy{mountpoint: l[4], options: strings.Join(opts, ",")})
		}
	}
	return out
}

func hierarchies() ([]hierarchy, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("control groups: %w", err)
	}
	hs := parseHierarchies(string(b))
	if len(hs) == 0 {
		return nil, errors.New("no control group hierarchy is mounted below /sys/fs/cgroup")
	}
	return hs, nil
}

func cgroupName(lab string) string { return "fairlead-lab-" + lab }

// joinCgroups moves the calling process into the host's own group of every
// hierarchy. It writes "0", which means the writer whatever its PID namespace.
func joinCgroups(lab, name string) error {
	hs, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range hs {
		top := filepath.Join(h.mountpoint, cgroupName(lab))
		dir := filepath.Join(top, name)
		for _, d := range []string{top, dir} {
			if err := os.Mkdir(d, 0o755); err != nil && !errors.Is(err, fs.ErrExist) { //nolint:gosec // as cgroupfs does
				return fmt.Errorf("control group: %w", err)
			}
			if err := prepareCgroup(h, d); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0o600); err != nil {
			return fmt.Errorf("control group: %w", err)
		}
	}
	return nil
}

// prepareCgroup makes a new group usable: a version 1 cpuset starts empty and
// refuses tasks, a version 2 group has the controllers its parent hands down.
func prepareCgroup(h hierarchy, dir string) error {
	if h.v2 {
		enableControllers(filepath.Dir(dir))
		return nil
	}
	if !slices.Contains(strings.Split(h.options, ","), "cpuset") {
		return nil
	}
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		b, err := os.ReadFile(filepath.Join(filepath.Dir(dir), f)) //nolint:gosec // below the cgroup mount
		if err != nil {
			return fmt.Errorf("control group: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, f), b, 0o600); err != nil { //nolint:gosec // below the cgroup mount
			return fmt.Errorf("control group: %w", err)
		}
	}
	return nil
}

// enableControllers hands every controller of a version 2 group down to its
// children. A controller that cannot be handed down (a realtime task in cpu,
// a threaded parent) is left out: kubelet reports what it misses.
func enableControllers(dir string) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers")) //nolint:gosec // below the cgroup mount
	if err != nil {
		return
	}
	for c := range strings.FieldsSeq(string(b)) {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0o600) // best effort, see above
	}
}

// mountCgroups gives a host that entered its own cgroup namespace a view with
// its own group as the root, laid out as on the machine.
func mountCgroups(hs []hierarchy) error {
	const root = "/sys/fs/cgroup"
	pure := len(hs) == 1 && hs[0].v2
	if pure {
		if err := mount("cgroup2", root, "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return err
		}
		return leafCgroup(root)
	}
	if err := mount("tmpfs", root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755"); err != nil {
		return err
	}
	for _, h := range hs {
		if filepath.Dir(h.mountpoint) != root {
			continue
		}
		if err := os.Mkdir(h.mountpoint, 0o755); err != nil { //nolint:gosec // as cgroupfs does
			return fmt.Errorf("control group: %w", err)
		}
		fstype := "cgroup"
		if h.v2 {
			fstype = "cgroup2"
		}
		if err := mount(fstype, h.mountpoint, fstype, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, h.options); err != nil {
			return err
		}
		for o := range strings.SplitSeq(h.options, ",") {
			link := filepath.Join(root, strings.TrimPrefix(o, "name="))
			if h.v2 || link == h.mountpoint {
				continue
			}
			if err := os.Symlink(filepath.Base(h.mountpoint), link); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("control group: %w", err)
			}
		}
	}
	return nil
}

// leafCgroup moves PID 1 out of the host's root group: a version 2 group with
// processes of its own cannot hand controllers to children (cgroup v2, "no
// internal processes").
func leafCgroup(root string) error {
	leaf := filepath.Join(root, "init")
	if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) { //nolint:gosec // as cgroupfs does
		return fmt.Errorf("control group: %w", err)
	}
	if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0o600); err != nil {
		return fmt.Errorf("control group: %w", err)
	}
	enableControllers(root)
	return nil
}

// Pids lists every process in the lab's control groups, or in those of one of
// its hosts.
func Pids(lab string, host ...string) ([]int, error) {
	hs, err := hierarchies()
	if err != nil {
		return nil, err
	}
	seen := map[int]bool{}
	for _, h := range hs {
		top := filepath.Join(append([]string{h.mountpoint, cgroupName(lab)}, host...)...)
		err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.Name() != "cgroup.procs" {
				return ignoreNotExist(err)
			}
			b, err := os.ReadFile(p) //nolint:gosec // below the cgroup mount
			for f := range strings.FieldsSeq(string(b)) {
				if pid, perr := strconv.Atoi(f); perr == nil && pid > 0 {
					seen[pid] = true
				}
			}
			return ignoreNotExist(err)
		})
		if err != nil {
			return nil, fmt.Errorf("control group: %w", err)
		}
	}
	out := make([]int, 0, len(seen))
	for pid := range seen {
		out = append(out, pid)
	}
	slices.Sort(out)
	return out, nil
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
		return nil
	}
	return err
}

// KillAll kills every process of the lab and waits until none is left.
func KillAll(ctx context.Context, lab string) error {
	for {
		pids, err := Pids(lab)
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may just have ended
		}
		if err := Pause(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("%d processes of the lab do not end: %w", len(pids), err)
		}
	}
}

// RemoveCgroups removes the lab's control groups, deepest first. They must be
// empty; the kernel needs a moment after the last process is reaped.
func RemoveCgroups(ctx context.Context, lab string) error {
	hs, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range hs {
		top := filepath.Join(h.mountpoint, cgroupName(lab))
		for {
			var dirs []string
			err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, p)
				}
				return ignoreNotExist(err)
			})
			if err != nil {
				return fmt.Errorf("control group: %w", err)
			}
			if len(dirs) == 0 {
				break
			}
			slices.Reverse(dirs)
			for _, d := range dirs {
				_ = syscall.Rmdir(d) // busy ones are tried again
			}
			if err := Pause(ctx, 10*time.Millisecond); err != nil {
				return fmt.Errorf("control group %s stays: %w", top, err)
			}
		}
	}
	return nil
}

// Pause waits for d, or less if ctx ends, which is its only error.
func Pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
