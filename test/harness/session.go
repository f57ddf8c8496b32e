// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// downTimeout bounds the clean-up, which must also work after an interrupt.
const downTimeout = 2 * time.Minute

// Session builds the lab's programs, starts a cluster with Fairlead, calls fn and removes
// the cluster again, whatever fn returned. With reuse the cluster at the state directory
// is taken as it is and stays.
func Session(ctx context.Context, l *Lab, reuse bool, fn func(context.Context) error) (err error) {
	if reuse {
		return withReads(ctx, l, fn)
	}
	if err := l.Build(ctx); err != nil {
		return err
	}
	defer func() {
		down, cancel := context.WithTimeout(context.WithoutCancel(ctx), downTimeout)
		defer cancel()
		err = errors.Join(err, l.Down(down))
	}()
	if err := l.Up(ctx); err != nil {
		return err
	}
	if err := l.ExcludeControlPlane(ctx); err != nil {
		return err
	}
	_, err = Eventually(ctx, time.Minute, func(ctx context.Context) error {
		nodes := len(FairleadNodes())
		return errors.Join(l.NodesReady(ctx, nodes), l.AgentsReady(ctx, nodes))
	})
	if err != nil {
		return err
	}
	return withReads(ctx, l, fn)
}

// withReads calls fn while reads go the short way.
func withReads(ctx context.Context, l *Lab, fn func(context.Context) error) error {
	stop, err := l.serveReads(ctx)
	if err != nil {
		return err
	}
	defer stop()
	return fn(ctx)
}

// TempStateDir returns dir, or a fresh directory below the temporary directory when it is
// empty.
func TempStateDir(dir, purpose string) (string, error) {
	if dir != "" {
		return dir, nil
	}
	fresh, err := os.MkdirTemp("", "fairlead-"+purpose+"-")
	if err != nil {
		return "", fmt.Errorf("make a state directory: %w", err)
	}
	return fresh, nil
}

// Machine says what a measurement ran on, without naming the machine.
type Machine struct {
	Kernel    string `json:"kernel"`
	Arch      string `json:"arch"`
	Cores     int    `json:"cores"`
	MemoryMiB int    `json:"memoryMiB"`
	Go        string `json:"go"`
	Commit    string `json:"commit"`
}

// ThisMachine describes this machine and the commit that is checked out.
func ThisMachine(ctx context.Context, l *Lab) Machine {
	m := Machine{Kernel: "unknown", Arch: runtime.GOARCH, Cores: runtime.NumCPU(), Go: runtime.Version(), Commit: "unknown"}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(b))
	}
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		kib := 0
		if n, err := fmt.Sscanf(string(b), "MemTotal: %d kB", &kib); err == nil && n == 1 {
			m.MemoryMiB = kib / 1024
		}
	}
	if res, err := l.command(ctx, nil, nil, "git", "rev-parse", "--short=12", "HEAD"); err == nil {
		m.Commit = strings.TrimSpace(res.Stdout)
	}
	return m
}
