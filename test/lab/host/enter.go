// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// namespaces lists the namespaces a command may enter, in the order in which
// they must be entered: the mount namespace last, because /proc changes there.
func namespaces(netOnly bool) []string {
	if netOnly {
		return []string{"net"}
	}
	return []string{"net", "uts", "ipc", "pid", "cgroup", "mnt"}
}

// Enter runs cmd inside the namespaces of a host and returns cmd's own error.
// With netOnly the command keeps the machine's file system and processes.
//
// Signals that ask this process to end are passed on to the command, and the
// command dies with the host.
func Enter(pid int, netOnly bool, cmd *exec.Cmd) error {
	if err := startIn(pid, namespaces(netOnly), cmd); err != nil {
		return err
	}
	done := make(chan struct{})
	defer close(done)
	sigs := make(chan os.Signal, 4)
	signal.Notify(sigs, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(sigs)
	go func() {
		for {
			select {
			case s := <-sigs:
				_ = cmd.Process.Signal(s) // it may just have ended
			case <-done:
				return
			}
		}
	}()
	return cmd.Wait()
}

// startIn starts cmd inside the namespaces of a process.
func startIn(pid int, names []string, cmd *exec.Cmd) error {
	started := make(chan error, 1)
	go func() {
		// The thread is never unlocked: it ends with the goroutine, since its
		// namespaces are of no use to anyone else.
		runtime.LockOSThread()
		err := setns(pid, names)
		if err == nil {
			err = cmd.Start()
		}
		started <- err
	}()
	return <-started
}

// Environ is this process's environment without proxy settings: no host of a
// lab reaches a proxy, and every address in a lab is near.
func Environ() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return strings.HasSuffix(strings.ToLower(name), "_proxy")
	})
}

func setns(pid int, names []string) error {
	files := make([]*os.File, 0, len(names))
	defer func() {
		for _, f := range files {
			_ = f.Close() // opened for reading
		}
	}()
	for _, n := range names {
		f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "ns", n)) //nolint:gosec // a path below /proc
		if err != nil {
			return fmt.Errorf("namespace: %w", err)
		}
		files = append(files, f)
	}
	// A mount namespace can be entered only by a thread that shares its root
	// and working directory with no other (setns(2)).
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	for i, f := range files {
		if err := unix.Setns(int(f.Fd()), 0); err != nil {
			return fmt.Errorf("enter namespace %s: %w", names[i], err)
		}
	}
	return nil
}

// ExitStatus is the status a shell would report for a finished command, and
// false if err does not come from one.
func ExitStatus(err error) (int, bool) {
	if err == nil {
		return 0, true
	}
	var ee *exec.ExitError
	if !errors.As(err, &ee) {
		return 0, false
	}
	if ws, ok := ee.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), true
	}
	return ee.ExitCode(), true
}
