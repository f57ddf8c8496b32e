// SPDX-License-Identifier: Apache-2.0

package plane

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// stopPatience is how long a process may take to end after SIGTERM.
const stopPatience = 15 * time.Second

// Process is one program that runs below this one and dies with it.
type Process struct {
	name string
	log  string
	pid  int
	// done is closed when the process has ended; end says how. expected is set before
	// it is asked to end.
	done     chan struct{}
	end      error
	expected atomic.Bool
}

// Program is what [StartProcess] starts.
type Program struct {
	// Name for errors; LogFile gets what the program prints, at its end.
	Name, LogFile string
	Path          string
	Args          []string
	// Env is added to this process's environment.
	Env []string
	// Enter, if set, is called on the thread that starts the program, which inherits what
	// is changed there: another network namespace, for example. No other goroutine gets
	// that thread afterwards.
	Enter func() error
}

func startProcess(ctx context.Context, name, logFile, program string, args, env []string) (*Process, error) {
	return StartProcess(ctx, Program{Name: name, LogFile: logFile, Path: program, Args: args, Env: env})
}

// StartProcess starts a program that dies with this one. It is the caller's to stop it.
func StartProcess(ctx context.Context, o Program) (*Process, error) {
	out, err := os.OpenFile(o.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Name, err)
	}
	// It must outlive ctx, to be stopped in order: an API server after its clients.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), o.Path, o.Args...) //nolint:gosec // running these is the package's purpose
	cmd.Dir = filepath.Dir(o.LogFile)
	cmd.Env = append(os.Environ(), o.Env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	p := &Process{name: o.Name, log: o.LogFile, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel sends the death signal when the thread that started the process
		// ends, so that thread must be this goroutine's until the process has ended.
		runtime.LockOSThread()
		defer out.Close()
		if o.Enter == nil { // a changed thread ends with this goroutine
			defer runtime.UnlockOSThread()
		} else if err := o.Enter(); err != nil {
			started <- err
			return
		}
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		p.pid = cmd.Process.Pid
		started <- nil
		if p.end = cmd.Wait(); p.end == nil {
			p.end = errors.New("exit status 0")
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Name, err)
	}
	return p, nil
}

// PID of the process.
func (p *Process) PID() int { return p.pid }

// Ended says whether the process has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Err returns nil while the process runs or if it was asked to end, else how it ended,
// with the end of its log.
func (p *Process) Err() error {
	if !p.Ended() || p.expected.Load() {
		return nil
	}
	return fmt.Errorf("%s ended: %w; the end of %s:\n%s", p.name, p.end, filepath.Base(p.log), p.tail())
}

func (p *Process) tail() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-8):], "\n")
}

// Signal sends a signal to the process.
func (p *Process) Signal(s syscall.Signal) error {
	if err := syscall.Kill(p.pid, s); err != nil {
		return fmt.Errorf("signal %s: %w", p.name, err)
	}
	return nil
}

// Stop ends the process, with SIGTERM first, and waits until it has ended. A paused
// process is continued. It is safe to call twice.
func (p *Process) Stop() error {
	if p == nil {
		return nil
	}
	if p.Ended() {
		return nil
	}
	p.expected.Store(true)
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGCONT} {
		if err := p.Signal(s); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	t := time.NewTimer(stopPatience)
	defer t.Stop()
	select {
	case <-p.done:
		return nil
	case <-t.C:
	}
	return p.Kill()
}

// Kill ends the process at once and waits until it has ended.
func (p *Process) Kill() error {
	p.expected.Store(true)
	if err := p.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	<-p.done
	return nil
}

// CPU returns the processor time that the process has used, user and system together.
func (p *Process) CPU() (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	if err != nil {
		return 0, fmt.Errorf("read the time of %s: %w", p.name, err)
	}
	// proc(5): the second field may hold spaces and ends with the last ")"; utime and
	// stime are the 14th and 15th, in ticks of a hundredth of a second (USER_HZ).
	_, rest, _ := strings.Cut(string(b[strings.LastIndexByte(string(b), ')'):]), " ")
	f := strings.Fields(rest)
	var user, system int64
	if len(f) < 13 {
		return 0, fmt.Errorf("read the time of %s: %d fields", p.name, len(f))
	}
	if _, err := fmt.Sscan(f[11]+" "+f[12], &user, &system); err != nil {
		return 0, fmt.Errorf("read the time of %s: %w", p.name, err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond, nil
}

// MemoryKiB returns the resident memory of the process.
func (p *Process) MemoryKiB() (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	if err != nil {
		return 0, fmt.Errorf("read the memory of %s: %w", p.name, err)
	}
	for line := range strings.Lines(string(b)) {
		kib := 0
		if n, err := fmt.Sscanf(line, "VmRSS: %d kB", &kib); err == nil && n == 1 {
			return kib, nil
		}
	}
	return 0, fmt.Errorf("read the memory of %s: no VmRSS", p.name)
}
