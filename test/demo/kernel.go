// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/test/demo/ipvs"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/lab/artifacts"
	"github.com/fairlead-lb/fairlead/test/vm"
)

// ipvsTimeout bounds the part that needs ip_vs, boot included.
const ipvsTimeout = 4 * time.Minute

// ipvsPart tells the part that needs ip_vs: on this kernel if it has that, or if here says
// so, else in a small machine with the distribution's kernel.
func ipvsPart(ctx context.Context, root string, here bool) error {
	if here {
		return tellIPVS(ctx, root)
	}
	if err := buildFor(ctx, root); err != nil {
		return err
	}
	why := vm.Probe()
	if why == nil {
		fmt.Printf("\nThis machine's kernel has ip_vs: the IPVS part runs on it, in network namespaces.\n")
		return tellIPVS(ctx, root)
	}
	dir, err := vm.DefaultKernelDir()
	if err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	k, err := vm.FindKernel(ctx, dir)
	if err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	fmt.Printf("\nThis machine's kernel cannot run the IPVS part (%s).\nIt runs in a SMALL VIRTUAL MACHINE with Linux %s, emulated: slowly, and for %s at most.\n",
		strings.ReplaceAll(why.Error(), "\n", "; "), filepath.Base(k.Modules), ipvsTimeout)
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	status, err := vm.Run(ctx, &vm.Options{
		Kernel: k, Timeout: ipvsTimeout, Dir: root, Env: os.Environ(), Output: os.Stdout,
		Argv: []string{self, "-part", partIPVS, "-here"},
	})
	if err == nil && status != 0 {
		err = fmt.Errorf("the IPVS part ended with status %d", status)
	}
	return err
}

// tellIPVS tells it on this kernel.
func tellIPVS(ctx context.Context, root string) (err error) {
	dir, err := os.MkdirTemp("", "fairlead-demo-ipvs-")
	if err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return ipvs.Run(ctx, root, dir, os.Stdout) //nolint:wrapcheck // says what it is
}

// buildFor makes the programs that the part needs: nothing is compiled in the machine.
func buildFor(ctx context.Context, root string) error {
	cache, err := artifacts.DefaultCache()
	if err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	b := artifacts.Builder{Cache: cache, Log: artifacts.WriterLogger(os.Stdout)}
	if _, err := b.Ensure(ctx, artifacts.Targets()); err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	for _, p := range [][2]string{
		{harness.AgentProgram, "./cmd/" + harness.AgentProgram},
		{harness.ControllerProgram, "./cmd/" + harness.ControllerProgram},
		{ipvs.WhoamiProgram, "./test/lab/whoami"},
		{ipvs.ProbeProgram, "./test/lab/probe"},
	} {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(root, "bin", p[0]), p[1]) //nolint:gosec // constants
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", p[0], err, out)
		}
	}
	return nil
}
