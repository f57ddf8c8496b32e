// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// Other is another network namespace, for hosts that must not be this one. It lives as
// long as the process in it, which does nothing.
type Other struct {
	tb  testing.TB
	pid int
}

// NewOther makes one for the time of the test. Its loopback is down.
func NewOther(tb testing.TB) *Other {
	tb.Helper()
	cmd := exec.CommandContext(context.Background(), "sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		tb.Fatalf("start a process in a new network namespace: %v", err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill() // sleep may have ended by itself
		_ = cmd.Wait()         // was killed
	})
	return &Other{tb: tb, pid: cmd.Process.Pid}
}

// Path of the file that is the namespace.
func (o *Other) Path() string { return fmt.Sprintf("/proc/%d/ns/net", o.pid) }

// Take moves a link in there, which takes it down and its addresses away; commands that
// [Other.Run] runs set it up again.
func (o *Other) Take(name string) {
	o.tb.Helper()
	if err := netlink.LinkSetNsPid(link(o.tb, name), o.pid); err != nil {
		o.tb.Fatalf("move %s: %v", name, err)
	}
}

// Run runs a command in there and returns what it writes to both outputs; a command that
// fails or takes longer than 20 s fails the test.
func (o *Other) Run(command string, args ...string) string {
	o.tb.Helper()
	out, err := o.Try(command, args...)
	if err != nil {
		o.tb.Fatalf("%s %s: %v\n%s", command, strings.Join(args, " "), err, out)
	}
	return out
}

// Try is Run for commands that may fail.
func (o *Other) Try(command string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(o.tb.Context(), 20*time.Second)
	defer cancel()
	all := append([]string{"--net=" + o.Path(), command}, args...)
	out, err := exec.CommandContext(ctx, "nsenter", all...).CombinedOutput() //nolint:gosec // a test's own command
	if err != nil {
		err = fmt.Errorf("run: %w", err)
	}
	return string(out), err
}
