// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	restartDelay = time.Second
	probeEvery   = 100 * time.Millisecond
)

// supervisor starts a host's processes, starts them again when they end, and
// reaps every orphan, as the PID 1 of a machine does.
type supervisor struct {
	spec *Spec

	mu sync.Mutex
	// waiting maps a child's pid to the channel that gets its exit status. It
	// is filled under mu before the reaper can see the pid.
	waiting map[int]chan syscall.WaitStatus
}

func newSupervisor(s *Spec) *supervisor {
	return &supervisor{spec: s, waiting: map[int]chan syscall.WaitStatus{}}
}

func (s *supervisor) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go s.reap(ctx)
	var wg sync.WaitGroup
	for _, p := range s.spec.Processes {
		wg.Go(func() { s.keep(ctx, p) })
	}
	<-ctx.Done()
	// When PID 1 returns, the kernel kills what is left in the namespace.
	return nil
}

// reap collects every child that ends: ours, and orphans such as container
// shims. Polling beats SIGCHLD here because a lost signal would leave a zombie
// for good, and 20 ms are nothing to a restart delay.
func (s *supervisor) reap(ctx context.Context) {
	for Pause(ctx, 20*time.Millisecond) == nil {
		for {
			s.mu.Lock()
			var ws syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
			if err != nil || pid <= 0 {
				s.mu.Unlock()
				break
			}
			if c, ok := s.waiting[pid]; ok {
				delete(s.waiting, pid)
				c <- ws
			}
			s.mu.Unlock()
		}
	}
}

func (s *supervisor) keep(ctx context.Context, p Process) {
	for ctx.Err() == nil {
		if err := waitFor(ctx, p.After); err != nil {
			return
		}
		ended, err := s.start(p)
		if err != nil {
			s.logf("%s: %v", p.Name, err)
		} else {
			select {
			case ws := <-ended:
				s.logf("%s ended: exit status %d, signal %v", p.Name, ws.ExitStatus(), ws.Signal())
			case <-ctx.Done():
				return
			}
		}
		if Pause(ctx, restartDelay) != nil {
			return
		}
	}
}

func (s *supervisor) start(p Process) (<-chan syscall.WaitStatus, error) {
	logFile, err := os.OpenFile(s.spec.LogPath(p.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	defer logFile.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	defer null.Close()
	path, err := exec.LookPath(p.Argv[0])
	if err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	attr := &os.ProcAttr{
		Dir: "/", Env: environment(os.Environ(), append(p.Env, EnvComponent+"="+p.Name)),
		Files: []*os.File{null, logFile, logFile},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	proc, err := os.StartProcess(path, p.Argv, attr)
	if err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	c := make(chan syscall.WaitStatus, 1)
	s.waiting[proc.Pid] = c
	return c, proc.Release()
}

// environment lays own over inherited. A name must not occur twice: which one
// counts is up to the program (in Go, the first).
func environment(inherited, own []string) []string {
	out := slices.Clone(own)
	names := map[string]bool{}
	for _, kv := range own {
		name, _, _ := strings.Cut(kv, "=")
		names[name] = true
	}
	for _, kv := range inherited {
		if name, _, _ := strings.Cut(kv, "="); !names[name] {
			out = append(out, kv)
		}
	}
	return out
}

func (s *supervisor) logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s %s\n", time.Now().Format(time.RFC3339Nano), fmt.Sprintf(format, args...))
}

// waitFor returns when every condition holds, or with ctx's error.
func waitFor(ctx context.Context, conditions []string) error {
	client := &http.Client{
		Timeout: 2 * time.Second,
		//nolint:gosec // asks only whether the server answers; no secret is sent
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
	}
	defer client.CloseIdleConnections()
	for _, c := range conditions {
		for !holds(ctx, client, c) {
			if err := Pause(ctx, probeEvery); err != nil {
				return err
			}
		}
	}
	return nil
}

func holds(ctx context.Context, client *http.Client, condition string) bool {
	kind, arg, _ := strings.Cut(condition, ":")
	switch kind {
	case "unix":
		d := net.Dialer{Timeout: time.Second}
		c, err := d.DialContext(ctx, "unix", arg)
		return err == nil && errors.Is(c.Close(), nil)
	case "file":
		_, err := os.Stat(arg)
		return err == nil
	default:
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, condition, http.NoBody)
		if err != nil {
			return false
		}
		resp, err := client.Do(req)
		return err == nil && errors.Is(resp.Body.Close(), nil) && resp.StatusCode == http.StatusOK
	}
}
