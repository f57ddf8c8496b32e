// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/fairlead-lb/fairlead/test/lab/host"
)

// agentProgram is the process name of Fairlead's node agent.
const agentProgram = "fairlead-node-agent"

// agentPids finds the node agent's process on a node; while a new one replaces
// it there may be two.
func (l *Lab) agentPids(node string) ([]int, error) {
	if err := l.isNode(node); err != nil {
		return nil, err
	}
	if _, err := l.running(node); err != nil {
		return nil, err
	}
	procs, err := host.Processes(l.state.ID, node)
	if err != nil {
		return nil, err
	}
	var pids []int
	for i := range procs {
		if procs[i].Argv0 == agentProgram {
			pids = append(pids, procs[i].Pid)
		}
	}
	if len(pids) == 0 {
		return nil, fmt.Errorf("no %s runs on %s", agentProgram, node)
	}
	return pids, nil
}

// KillAgent kills a node's agent (SIGKILL); the kubelet starts it again. It
// returns the moment just before.
func (l *Lab) KillAgent(node string) (time.Time, error) {
	pids, err := l.agentPids(node)
	if err != nil {
		return time.Time{}, err
	}
	killed := l.now()
	return killed, signalAll(pids, syscall.SIGKILL)
}

// LimitAgent lets the container of a node's agent use so many thousandths of a
// CPU, 0 for as much as there is. A container that is started again has no
// limit.
func (l *Lab) LimitAgent(node string, milli int) error {
	pids, err := l.agentPids(node)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := host.LimitCPU(pid, milli); err != nil {
			return err
		}
	}
	return nil
}

// Limits of Burn, against a mistake that would make the machine useless.
const (
	MaxLoops = 1024
	MaxBurn  = time.Hour
)

// Burn starts busy loops on a node, beside its kubelet and in competition with
// its pods, and returns. They end after d, with the node, or with the lab.
func (l *Lab) Burn(ctx context.Context, node string, loops int, d time.Duration) error {
	if err := l.isNode(node); err != nil {
		return err
	}
	r, err := l.running(node)
	if err != nil {
		return err
	}
	if err := checkBurn(loops, d); err != nil {
		return err
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), l.self, "spin", strconv.Itoa(loops), d.String()) //nolint:gosec // our own binary
	cmd.Env = []string{host.EnvLab + "=" + l.state.ID, host.EnvHost + "=" + node, host.EnvComponent + "=burn"}
	return host.Background(r.Pid, cmd)
}

func checkBurn(loops int, d time.Duration) error {
	if loops < 1 || loops > MaxLoops || d <= 0 || d > MaxBurn {
		return fmt.Errorf("burn: want 1 to %d loops and at most %s", MaxLoops, MaxBurn)
	}
	return nil
}

// ParseMilliCPU reads an amount of CPU as Kubernetes writes it, in thousandths:
// "50m" or "2"; "none" is 0.
func ParseMilliCPU(s string) (int, error) {
	if s == "none" {
		return 0, nil
	}
	number, milli := strings.CutSuffix(s, "m")
	n, err := strconv.Atoi(number)
	if !milli {
		n *= 1000
	}
	// The kernel's smallest quota is a hundredth of the period.
	if err != nil || n < 10 || n > 1_000_000 {
		return 0, errors.New("want an amount of CPU like 50m (at least 10m), or none")
	}
	return n, nil
}
