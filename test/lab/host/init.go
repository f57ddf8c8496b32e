// SPDX-License-Identifier: Apache-2.0

package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The words of the handshake between Start and the new PID 1. PID 1 says
// lineMounted when its namespaces are complete; it starts processes only when
// it hears lineGo, after its network port is there. If the parent dies before
// that, PID 1 reads end of file and ends, and the host is gone.
const (
	lineMounted = "mounted"
	lineGo      = "go"
)

const envStage = "FAIRLEAD_LAB_INIT_STAGE"

// Running identifies the PID 1 of a running host, safe against pid reuse.
type Running struct {
	Pid int `json:"pid"`
	// StartTicks is field 22 of /proc/<pid>/stat.
	StartTicks uint64 `json:"startTicks"`
}

// Start boots a host: executable is a program whose hidden command "init SPEC"
// calls RunInit. plug is called between the mounts and the processes, with the
// host's PID 1, and attaches the network.
func Start(ctx context.Context, executable string, s *Spec, plug func(pid int) error) (*Running, error) {
	if err := s.Save(); err != nil {
		return nil, err
	}
	logFile, err := os.OpenFile(s.LogPath("init"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", s.Name, err)
	}
	defer logFile.Close()
	// The host outlives this command, hence no CommandContext.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), executable, "init", s.Path()) //nolint:gosec // our own binary
	cmd.Stderr = logFile
	cmd.Dir = "/"
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "LANG=C.UTF-8",
		EnvLab + "=" + s.Lab, EnvHost + "=" + s.Name, EnvComponent + "=init", envStage + "=1",
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS |
			syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC,
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", s.Name, err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", s.Name, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("host %s: start PID 1: %w", s.Name, err)
	}
	r, err := handshake(s, cmd.Process.Pid, in, out, plug)
	if err != nil {
		return nil, errors.Join(err, cmd.Process.Kill(), in.Close())
	}
	go func() { _ = cmd.Wait() }() // reaps PID 1 should it end before we do
	return r, nil
}

func handshake(s *Spec, pid int, in io.Writer, out io.Reader, plug func(pid int) error) (*Running, error) {
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != lineMounted+"\n" {
		return nil, fmt.Errorf("host %s did not come up, see %s", s.Name, s.LogPath("init"))
	}
	if err := plug(pid); err != nil {
		return nil, err
	}
	ticks, err := startTicks(pid)
	if err != nil {
		return nil, err
	}
	if _, err := io.WriteString(in, lineGo+"\n"); err != nil {
		return nil, fmt.Errorf("host %s: %w", s.Name, err)
	}
	return &Running{Pid: pid, StartTicks: ticks}, nil
}

// RunInit is PID 1 of a host and returns only on failure or when told to stop.
//
// It runs in two stages, because control group membership and the cgroup
// namespace must be set by one thread before any other thread exists: the
// first stage does that and executes itself again, the second keeps the
// processes.
func RunInit(ctx context.Context, specPath string) error {
	s, err := LoadSpec(specPath)
	if err != nil {
		return err
	}
	if os.Getenv(envStage) == "1" {
		return firstStage(s)
	}
	if _, err := fmt.Fprintln(os.Stdout, lineMounted); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil || line != lineGo+"\n" {
		return errors.New("the command that started this host ended before it was ready")
	}
	if err := detach(); err != nil {
		return err
	}
	return newSupervisor(s).run(ctx)
}

func firstStage(s *Spec) error {
	runtime.LockOSThread()
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("own path: %w", err)
	}
	hs, err := hierarchies()
	if err != nil {
		return err
	}
	if err := joinCgroups(s.Lab, s.Name); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("cgroup namespace: %w", err)
	}
	// The mount namespace is this process's own, but the thread still shares
	// its root and working directory with the others.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Sethostname([]byte(s.Name)); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	if err := prepareFilesystem(s, hs); err != nil {
		return err
	}
	if err := applySysctls(s); err != nil {
		return err
	}
	if err := os.Setenv(envStage, "2"); err != nil {
		return fmt.Errorf("environment: %w", err)
	}
	return syscall.Exec(self, []string{filepath.Base(self), "init", s.Path()}, os.Environ()) //nolint:gosec // our own binary
}

// detach lets go of the pipes to the command that started the host.
func detach() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	defer null.Close()
	return errors.Join(unix.Dup3(int(null.Fd()), 0, 0), unix.Dup3(int(null.Fd()), 1, 0))
}

// Alive says whether the host's PID 1 still runs.
func (r *Running) Alive() bool {
	if r == nil || r.Pid == 0 {
		return false
	}
	t, err := startTicks(r.Pid)
	return err == nil && t == r.StartTicks
}

// Kill ends every process of the host at one instant: the kernel kills a PID
// namespace with its PID 1. It returns when they are gone.
func (r *Running) Kill(ctx context.Context) error {
	if !r.Alive() {
		return nil
	}
	if err := syscall.Kill(r.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill %d: %w", r.Pid, err)
	}
	for r.Alive() {
		if err := Pause(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("process %d does not end: %w", r.Pid, err)
		}
	}
	return nil
}
