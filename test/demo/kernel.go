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
	"github.com/fairlead-lb/fairlead/test/harness/plane"
	"github.com/fairlead-lb/fairlead/test/lab/artifacts"
	"github.com/fairlead-lb/fairlead/test/vm"
)

// ipvsTimeout bounds the part that needs ip_vs, boot included.
const ipvsTimeout = 8 * time.Minute

// ipvsPart tells the part that needs ip_vs: on this kernel if it has that, else in a small
// machine with the distribution's kernel.
//
// The control plane runs on this machine in any case: emulated, it would take most of the time.
func ipvsPart(ctx context.Context, root string) (err error) {
	programs, err := buildFor(ctx, root)
	if err != nil {
		return err
	}
	p, description, err := startPlane(ctx, root, programs)
	if p != nil {
		defer func() { err = errors.Join(err, p.Stop(), os.RemoveAll(filepath.Dir(description))) }()
	}
	if err != nil {
		return err
	}
	why := vm.Probe()
	if why == nil {
		fmt.Printf("\nThis machine's kernel has ip_vs: the IPVS part runs on it, in network namespaces.\n")
		return tellIPVS(ctx, root, description, "127.0.0.1")
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
		Kernel: k, Timeout: ipvsTimeout, Dir: root, Output: os.Stdout,
		// Memory is cheaper there than the processor; every program inherits it.
		Env:  append(os.Environ(), "GOGC=400"),
		Argv: []string{self, "-here", description},
	})
	if err == nil && status != 0 {
		err = fmt.Errorf("the IPVS part ended with status %d", status)
	}
	return err
}

// startPlane runs a control plane with Fairlead's controller, and returns the file in which
// it is described, in a directory of its own.
func startPlane(ctx context.Context, root string, programs map[string]string) (p *plane.Plane, description string, err error) {
	dir, err := os.MkdirTemp("", "fairlead-demo-plane-")
	if err != nil {
		return nil, "", fmt.Errorf("make a directory: %w", err)
	}
	description = filepath.Join(dir, "plane.json")
	inner := filepath.Join(dir, "plane")
	if err := os.Mkdir(inner, 0o700); err != nil {
		return nil, description, errors.Join(fmt.Errorf("make a directory: %w", err), os.RemoveAll(dir))
	}
	p, err = plane.Start(ctx, plane.Options{
		Root: root, Dir: inner, Alone: true, Progress: os.Stdout,
		ControllerProgram: filepath.Join(root, "bin", harness.ControllerProgram),
	})
	if err != nil {
		return p, description, err //nolint:wrapcheck // says what it is
	}
	if _, err := p.StartController(ctx, plane.ControllerOptions{Name: "controller"}); err != nil {
		return p, description, err //nolint:wrapcheck // says what it is
	}
	return p, description, p.Describe(description, programs) //nolint:wrapcheck // says what it is
}

// tellIPVS tells it on this kernel, with a control plane that is described in a file and has
// its loopback at host.
func tellIPVS(ctx context.Context, root, description, host string) (err error) {
	dir, err := os.MkdirTemp("", "fairlead-demo-ipvs-")
	if err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return ipvs.Run(ctx, ipvs.Options{Root: root, Dir: dir, Outside: description, Host: host, Out: os.Stdout}) //nolint:wrapcheck // says what it is
}

// buildFor makes the programs that the part needs: nothing is compiled in the machine. It
// returns where those of Kubernetes are.
func buildFor(ctx context.Context, root string) (map[string]string, error) {
	cache, err := artifacts.DefaultCache()
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it is
	}
	b := artifacts.Builder{Cache: cache, Log: artifacts.WriterLogger(os.Stdout)}
	programs, err := b.Ensure(ctx, artifacts.Targets())
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it is
	}
	for _, p := range [][2]string{
		{harness.AgentProgram, "./cmd/" + harness.AgentProgram},
		{harness.ControllerProgram, "./cmd/" + harness.ControllerProgram},
		{ipvs.WhoamiProgram, "./test/lab/whoami"},
		{ipvs.ProbeProgram, "./test/lab/probe"},
	} {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", harness.BuildTags, "-ldflags=-s -w", "-o", filepath.Join(root, "bin", p[0]), p[1]) //nolint:gosec // constants
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build %s: %w\n%s", p[0], err, out)
		}
	}
	return programs, nil
}
