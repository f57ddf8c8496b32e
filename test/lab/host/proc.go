// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// stat is what the package reads of proc_pid_stat(5).
type stat struct {
	state  string
	parent int
	// startTicks is the start time in clock ticks since boot.
	startTicks uint64
}

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return stat{}, fmt.Errorf("process %d: %w", pid, err)
	}
	return parseStat(string(b))
}

// parseStat counts fields from the last closing parenthesis, because the
// command name before it may hold spaces and parentheses.
func parseStat(line string) (stat, error) {
	_, rest, ok := strings.Cut(line[max(strings.LastIndex(line, ")"), 0):], " ")
	f := strings.Fields(rest)
	if !ok || len(f) < 20 {
		return stat{}, fmt.Errorf("unexpected process state %q", line)
	}
	s := stat{state: f[0]}
	var err, err2 error
	s.parent, err = strconv.Atoi(f[1])
	s.startTicks, err2 = strconv.ParseUint(f[19], 10, 64)
	return s, errors.Join(err, err2)
}

// startTicks is the start time of a process that has not ended; a zombie has.
func startTicks(pid int) (uint64, error) {
	s, err := readStat(pid)
	if err != nil {
		return 0, err
	}
	if s.state == "Z" || s.state == "X" {
		return 0, fmt.Errorf("process %d: %w", pid, os.ErrProcessDone)
	}
	return s.startTicks, nil
}

// Proc is one process of a lab as seen from the machine.
type Proc struct {
	Pid int
	// Parent is the parent's pid.
	Parent int
	// State is the state letter of proc_pid_stat(5).
	State string
	// Argv0 is the base name of the program.
	Argv0 string
	// Env is the environment the process was started with.
	Env map[string]string
}

// Processes lists the processes in the lab's control groups, or in those of one
// host, with their environment; containers' processes included. Those that end
// meanwhile are left out.
func Processes(lab string, host ...string) ([]Proc, error) {
	pids, err := Pids(lab, host...)
	if err != nil {
		return nil, err
	}
	out := make([]Proc, 0, len(pids))
	for _, pid := range pids {
		st, err := readStat(pid)
		if err != nil {
			continue
		}
		dir := filepath.Join("/proc", strconv.Itoa(pid))
		env, err := os.ReadFile(filepath.Join(dir, "environ")) //nolint:gosec // a path below /proc
		if err != nil {
			continue
		}
		argv, err := os.ReadFile(filepath.Join(dir, "cmdline")) //nolint:gosec // a path below /proc
		if err != nil {
			continue
		}
		argv0, _, _ := strings.Cut(string(argv), "\x00")
		out = append(out, Proc{Pid: pid, Parent: st.parent, State: st.state, Argv0: filepath.Base(argv0), Env: parseEnviron(string(env))})
	}
	return out, nil
}

// Component is the lab component that the process belongs to. What a component
// started inherits it; only the component itself is a child of the host's PID 1.
func (p *Proc) Component() string { return p.Env[EnvComponent] }

// parseEnviron reads proc_pid_environ(5).
func parseEnviron(s string) map[string]string {
	env := map[string]string{}
	for kv := range strings.SplitSeq(s, "\x00") {
		if k, v, ok := strings.Cut(kv, "="); ok {
			env[k] = v
		}
	}
	return env
}

// Marked lists the processes anywhere on the machine that carry the lab's mark
// in their environment, other than the caller.
func Marked(lab string) ([]int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, fmt.Errorf("processes: %w", err)
	}
	var out []int
	for _, d := range dirs {
		pid, err := strconv.Atoi(filepath.Base(d))
		if err != nil || pid == os.Getpid() {
			continue
		}
		env, err := os.ReadFile(filepath.Join(d, "environ")) //nolint:gosec // a path below /proc
		if err == nil && parseEnviron(string(env))[EnvLab] == lab {
			out = append(out, pid)
		}
	}
	return out, nil
}
