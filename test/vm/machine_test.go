// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package vm

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// These tests need the emulator, which is installed where this machine's kernel has no
// ip_vs. Make knows where that is, and leaves them out elsewhere.

// machine returns options with a program to start from.
func machine(t *testing.T) (*Options, *bytes.Buffer) {
	t.Helper()
	dir, err := DefaultKernelDir()
	if err != nil {
		t.Fatal(err)
	}
	k, err := FindKernel(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	self := filepath.Join(t.TempDir(), "fairlead-vm")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", self, "./cmd/fairlead-vm")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var b bytes.Buffer
	return &Options{Self: self, Kernel: k, Dir: "/", Env: []string{"PATH=" + os.Getenv("PATH")}, Output: &b, Timeout: 2 * time.Minute}, &b
}

func TestMachine(t *testing.T) {
	o, out := machine(t)
	left := filepath.Join(t.TempDir(), "left")
	o.Argv = []string{"sh", "-c", "ip link add probe0 type dummy && ipvsadm -A -t 192.0.2.1:80 && ipvsadm -Ln && echo x > " + left + " && cat " + left + "; exit 42"}
	status, err := Run(t.Context(), o)
	if err != nil || status != 42 {
		t.Errorf("exit status %d, %v, want 42", status, err)
	}
	if !strings.Contains(out.String(), "TCP  192.0.2.1:80") || !strings.HasSuffix(out.String(), "\nx\n") {
		t.Errorf("output: %q", out)
	}
	if _, err := os.Stat(left); err == nil {
		t.Error("a file written in there is here")
	}
}

func TestMachineIsBoundedInTime(t *testing.T) {
	o, _ := machine(t)
	o.Timeout, o.Argv = 2*time.Second, []string{"sleep", "600"}
	_, err := Run(t.Context(), o)
	if !errors.Is(err, ErrTimeout) {
		t.Errorf("got %v", err)
	}
}

func TestMachineThatDies(t *testing.T) {
	o, _ := machine(t)
	o.Argv = []string{"sh", "-c", "echo c > /proc/sysrq-trigger; sleep 600"}
	_, err := Run(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "sysrq triggered crash") {
		t.Errorf("want the console with the reason, got %v", err)
	}
}
