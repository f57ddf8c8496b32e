// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
)

// ControllerLease is the leader-election lease of the cloud controller manager.
const ControllerLease = "fairlead-cloud-controller-manager"

// Names of the two programs as the kernel sees them in a process's argv[0].
const (
	ControllerProgram = "fairlead-cloud-controller-manager"
	// BuildTags of all programs: gRPC's tracing, which gobgp brings, doubles their size.
	BuildTags    = "grpcnotrace"
	AgentProgram = "fairlead-node-agent"
)

// Leadership is who holds the lease of the cloud controller manager.
type Leadership struct {
	// Identity is the holder's: its host's name, "_" and a part made at each start, so
	// that a process and the one that replaces it on the same node can be told apart.
	Identity string
	// Node that it runs on: controllers use the host's network and so its name.
	Node string
}

// Leader returns the leading cloud controller manager. A lease that was not renewed for
// its own duration counts as nobody's; one whose holder died a moment ago does not.
func (l *Lab) Leader(ctx context.Context) (Leadership, error) {
	lease, err := Get[coordinationv1.Lease](ctx, l, "lease", ControllerLease, "-n", Namespace)
	if err != nil {
		return Leadership{}, err
	}
	s := lease.Spec
	if s.HolderIdentity == nil || *s.HolderIdentity == "" || s.RenewTime == nil || s.LeaseDurationSeconds == nil {
		return Leadership{}, fmt.Errorf("lease %s has no holder", ControllerLease)
	}
	if age := time.Since(s.RenewTime.Time); age > time.Duration(*s.LeaseDurationSeconds)*time.Second {
		return Leadership{}, fmt.Errorf("lease %s was renewed %s ago by %s", ControllerLease, age.Round(time.Second), *s.HolderIdentity)
	}
	node, _, _ := strings.Cut(*s.HolderIdentity, "_")
	return Leadership{Identity: *s.HolderIdentity, Node: node}, nil
}

// Processes returns the ids, as this process sees them, of the processes of one program
// on one host of the lab. Processes are told apart by their network namespace: the
// programs looked for run in their node's.
func (l *Lab) Processes(ctx context.Context, host, program string) ([]int, error) {
	res, err := l.Exec(ctx, host, "stat", "-L", "-c", "%i", "/proc/self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("find the network namespace of %s: %w", host, err)
	}
	want := "net:[" + strings.TrimSpace(res.Stdout) + "]"
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, d := range dirs {
		// A process may end at any time while we look: what cannot be read is not there.
		cmdline, err := os.ReadFile(filepath.Join(d, "cmdline")) //nolint:gosec // a path below /proc
		if err != nil {
			continue
		}
		argv0, _, _ := strings.Cut(string(cmdline), "\x00")
		if filepath.Base(argv0) != program {
			continue
		}
		if ns, err := os.Readlink(filepath.Join(d, "ns", "net")); err != nil || ns != want {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(d)); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids, nil
}

// KillProgram sends SIGKILL to every process of one program on one host.
func (l *Lab) KillProgram(ctx context.Context, host, program string) error {
	return l.SignalProgram(ctx, host, program, syscall.SIGKILL)
}

// SignalProgram sends a signal to every process of one program on one host.
func (l *Lab) SignalProgram(ctx context.Context, host, program string, signal syscall.Signal) error {
	pids, err := l.Processes(ctx, host, program)
	if err != nil {
		return err
	}
	if len(pids) == 0 {
		return fmt.Errorf("no %s runs on %s", program, host)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, signal); err != nil {
			return fmt.Errorf("send %s to %s (process %d) on %s: %w", signal, program, pid, host, err)
		}
	}
	return nil
}

// ReplaceController deletes a node's controller pod at once, so that its Deployment
// makes a new one: the kubelet's back-off after a crash (10 s, doubled each time) would
// else decide how long a run with many kills takes.
func (l *Lab) ReplaceController(ctx context.Context, node string) error {
	pods, err := l.Pods(ctx, Namespace, "app.kubernetes.io/component=controller")
	if err != nil {
		return err
	}
	for i := range pods {
		if pods[i].Spec.NodeName != node {
			continue
		}
		_, err := l.Kubectl(ctx, "delete", "pod", "-n", Namespace, pods[i].Name, "--force", "--grace-period=0", "--wait=false", "--ignore-not-found")
		if err != nil {
			return err
		}
	}
	return nil
}
