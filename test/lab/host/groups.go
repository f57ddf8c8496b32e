// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// groupIn finds a process's group of one hierarchy in its cgroup file
// (cgroups(7)): "ID:CONTROLLERS:PATH" per hierarchy, "0::PATH" for version 2.
func groupIn(content string, h hierarchy) (string, bool) {
	want := strings.Split(h.options, ",")
	slices.Sort(want)
	for line := range strings.Lines(content) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		got := strings.Split(f[1], ",")
		slices.Sort(got)
		if (h.v2 && f[0] == "0") || (!h.v2 && f[0] != "0" && slices.Equal(got, want)) {
			return f[2], true
		}
	}
	return "", false
}

// groupDir is the directory of a process's group in one hierarchy.
func groupDir(pid int, h hierarchy) (string, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return "", fmt.Errorf("control group of %d: %w", pid, err)
	}
	group, ok := groupIn(string(b), h)
	if !ok {
		return "", fmt.Errorf("process %d is in no control group below %s", pid, h.mountpoint)
	}
	return filepath.Join(h.mountpoint, group), nil
}

// Background starts cmd inside the namespaces and the control groups of the
// host with that PID 1, and does not wait for it: it ends by itself or with the
// host, whose PID 1 reaps it.
func Background(pid int, cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := startIn(pid, namespaces(false), cmd); err != nil {
		return err
	}
	if err := adopt(pid, cmd.Process.Pid); err != nil {
		return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	if err := cmd.Process.Release(); err != nil {
		return fmt.Errorf("let go of %s: %w", cmd.Path, err)
	}
	return nil
}

// adopt moves a process into the groups of a host's PID 1.
func adopt(initPid, pid int) error {
	hs, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range hs {
		dir, err := groupDir(initPid, h)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o600); err != nil {
			return fmt.Errorf("control group: %w", err)
		}
	}
	return nil
}

// cpuPeriod is the kernel's default period of CPU bandwidth control, in µs.
const cpuPeriod = 100_000

// LimitCPU lets the control group of a process use so many thousandths of a
// CPU and no more; 0 lifts the limit. The group of a container holds nothing
// else.
func LimitCPU(pid, milli int) error {
	hs, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range hs {
		if !h.v2 && !slices.Contains(strings.Split(h.options, ","), "cpu") {
			continue
		}
		dir, err := groupDir(pid, h)
		if err != nil {
			return err
		}
		file, value := bandwidth(h.v2, milli)
		path := filepath.Join(dir, file)
		if _, err := os.Stat(path); err != nil {
			continue // a version 2 tree beside version 1 has no controllers
		}
		if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
			return fmt.Errorf("limit the CPU of %d: %w", pid, err)
		}
		return nil
	}
	return errors.New("this kernel has no CPU bandwidth control (CONFIG_CFS_BANDWIDTH)")
}

// bandwidth is the file and its value that limit a group's CPU time.
func bandwidth(v2 bool, milli int) (file, value string) {
	quota := strconv.Itoa(milli * cpuPeriod / 1000)
	switch {
	case v2 && milli == 0:
		return "cpu.max", fmt.Sprintf("max %d", cpuPeriod)
	case v2:
		return "cpu.max", fmt.Sprintf("%s %d", quota, cpuPeriod)
	case milli == 0:
		return "cpu.cfs_quota_us", "-1"
	default:
		return "cpu.cfs_quota_us", quota
	}
}
