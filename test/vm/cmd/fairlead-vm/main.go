// SPDX-License-Identifier: Apache-2.0

// Command fairlead-vm runs things on a kernel that has ip_vs: a command in a small virtual
// machine, or the tests that need it, natively where this machine's kernel has it. This
// package owns the command's grammar and nothing else; package vm does the work. The
// Makefile and the demo call it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/fairlead-lb/fairlead/test/vm"
)

// Exit statuses besides those of what is run.
const (
	exitUsage = 64
	// exitMachine says that the machine did not get so far as to have one.
	exitMachine = 125
)

const usage = `usage: fairlead-vm run [-m MiB] [-c CPUs] [-t TIMEOUT] -- COMMAND [ARGUMENT...]
           run COMMAND as root on the distribution's kernel, over this file system; what it
           writes to files is thrown away. The exit status is the command's, or 125.
       fairlead-vm test [-tags TAGS] [-t TIMEOUT] [-run PATTERN] PACKAGE...
           run the tests of files tagged ipvs: here if this kernel has ip_vs, else in one
           boot of that machine.
       fairlead-vm probe
           say whether this machine's kernel has ip_vs (exit status 0) or not (1).`

func main() {
	vm.Guest()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	status := run(ctx, os.Args[1:])
	stop()
	os.Exit(status) //nolint:forbidigo // this is main
}

func run(ctx context.Context, args []string) int {
	if len(args) == 0 {
		args = []string{""}
	}
	var status int
	var err error
	switch args[0] {
	case "run":
		status, err = runCommand(ctx, args[1:])
	case "test":
		status, err = runTests(ctx, args[1:])
	case "jobs": // in the machine, by ourselves
		status, err = runJobs(ctx, args[1:])
	case "probe":
		if err = vm.Probe(); err == nil {
			fmt.Println("this machine's kernel has ip_vs and dummy links")
			return 0
		}
		fmt.Println(err)
		return 1
	default:
		err = flag.ErrHelp
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintln(os.Stderr, usage)
		return exitUsage
	case err != nil:
		fmt.Fprintln(os.Stderr, "fairlead-vm:", err)
		return exitMachine
	}
	return status
}

func runCommand(ctx context.Context, args []string) (int, error) {
	fs := flag.NewFlagSet("run", flag.ContinueOnError)
	o := vm.Options{Output: os.Stdout, Env: os.Environ()}
	fs.IntVar(&o.MemoryMiB, "m", 0, "memory in MiB (default 4096)")
	fs.IntVar(&o.CPUs, "c", 0, "virtual processors (default 2)")
	fs.DurationVar(&o.Timeout, "t", 0, "bound on everything, boot included (default 10m)")
	if err := fs.Parse(args); err != nil || fs.NArg() == 0 {
		return 0, flag.ErrHelp
	}
	o.Argv = fs.Args()
	var err error
	if o.Dir, err = os.Getwd(); err != nil {
		return 0, fmt.Errorf("find the directory: %w", err)
	}
	if o.Kernel, err = kernel(ctx); err != nil {
		return 0, err
	}
	return vm.Run(ctx, &o) //nolint:wrapcheck // says what it is
}

func kernel(ctx context.Context) (vm.Kernel, error) {
	dir, err := vm.DefaultKernelDir()
	if err != nil {
		return vm.Kernel{}, err //nolint:wrapcheck // says what it is
	}
	return vm.FindKernel(ctx, dir) //nolint:wrapcheck // says what it is
}

func runTests(ctx context.Context, args []string) (int, error) {
	fs := flag.NewFlagSet("test", flag.ContinueOnError)
	s := vm.Suite{Output: os.Stdout, Kernel: kernel}
	fs.StringVar(&s.Tags, "tags", "kernel", "build tags besides ipvs")
	fs.StringVar(&s.Run, "run", "", "only tests that match")
	fs.DurationVar(&s.Timeout, "t", 30*time.Minute, "bound on the run of all tests")
	if err := fs.Parse(args); err != nil || fs.NArg() == 0 {
		return 0, flag.ErrHelp
	}
	s.Packages = fs.Args()
	passed, err := s.Test(ctx)
	if err != nil {
		return 0, err //nolint:wrapcheck // says what it is
	}
	if !passed {
		return 1, nil
	}
	return 0, nil
}

func runJobs(ctx context.Context, args []string) (int, error) {
	if len(args) != 1 {
		return 0, flag.ErrHelp
	}
	jobs, err := vm.ReadJobs(args[0])
	if err != nil {
		return 0, err //nolint:wrapcheck // says what it is
	}
	passed, err := vm.RunJobs(ctx, jobs, os.Stdout)
	if err != nil {
		return 0, err //nolint:wrapcheck // says what it is
	}
	if !passed {
		return 1, nil
	}
	return 0, nil
}
