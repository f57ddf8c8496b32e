// SPDX-License-Identifier: Apache-2.0

// Package vm runs a command as root in a small virtual machine with the distribution's
// kernel, over this machine's own file system: what needs ip_vs is tested there where this
// machine's kernel has none. It also finds the tests that need it and runs them, here or
// there; see [Suite].
//
// It owns the machine from its first to its last instruction and leaves nothing behind: the
// file system is an overlay whose changes are thrown away, the network ends at this
// machine's loopback ([Outside]), and the emulator dies with its caller. It must know
// nothing of what it runs. The command fairlead-vm calls it; that program is also the
// machine's first process, see [Guest].
package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// emulator of the only architecture that this package knows.
const (
	emulator     = "qemu-system-x86_64"
	architecture = "amd64"
)

// Errors of [Run], besides those of the machine's own end.
var (
	// ErrTimeout means that the command had not ended in time.
	ErrTimeout = errors.New("not done in time")
	// ErrDied means that the machine stopped before its command did.
	ErrDied = errors.New("the machine stopped before the command ended")
)

// Options of one run.
type Options struct {
	// Self is the fairlead-vm program, whose main calls [Guest] first; empty: this program.
	Self string
	// Kernel from [FindKernel].
	Kernel Kernel
	// MemoryMiB and CPUs of the machine; 0: 4096 and 2.
	MemoryMiB, CPUs int
	// Timeout of everything, boot included; 0: 10 minutes.
	Timeout time.Duration
	// Dir is where the command starts, Env its environment.
	Dir string
	Env []string
	// Output gets what the command writes to its standard output and error, as it comes.
	Output io.Writer
	// Argv is the command; its program is looked for in PATH of Env.
	Argv []string
}

// Run boots the machine, runs the command in it as root and returns its exit status, as a
// shell counts: 128 and the signal for a command that died of one. Files that it writes are
// gone afterwards. With an error comes the end of what the kernel wrote to its console.
func Run(ctx context.Context, o *Options) (status int, err error) {
	if runtime.GOARCH != architecture {
		return 0, fmt.Errorf("run a machine: this is %s, and there is one for %s only", runtime.GOARCH, architecture)
	}
	dir, err := os.MkdirTemp("", "fairlead-vm-")
	if err != nil {
		return 0, fmt.Errorf("run a machine: %w", err)
	}
	defer os.RemoveAll(dir)
	if err := writeInitrd(filepath.Join(dir, "initrd"), o); err != nil {
		return 0, fmt.Errorf("run a machine: %w", err)
	}
	timeout := or(o.Timeout, 10*time.Minute)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("%w: %s", ErrTimeout, timeout))
	defer cancel()
	runErr := emulate(ctx, o, dir)
	status, err = readStatus(filepath.Join(dir, "status"))
	switch {
	case err == nil:
		return status, nil
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case runErr != nil:
		err = runErr
	default:
		err = ErrDied
	}
	return 0, fmt.Errorf("run a machine: %w; the end of its console:\n%s", err, tail(filepath.Join(dir, "console"), 60))
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// emulate runs the emulator to its end.
func emulate(ctx context.Context, o *Options, dir string) error {
	// The kernel sends the death signal when the thread ends that started the emulator.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, emulator, arguments(o, dir)...) //nolint:gosec // arguments are this package's own
	var complaints bytes.Buffer
	// A pipe each, because the emulator changes flags of what it writes to.
	cmd.Stdout, cmd.Stderr = writer{o.Output}, &complaints
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.WaitDelay = 2 * time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", emulator, err, bytes.TrimSpace(complaints.Bytes()))
	}
	return nil
}

// writer hides that it may be a file.
type writer struct{ io.Writer }

func arguments(o *Options, dir string) []string {
	return []string{
		// The hardware's own virtualisation is left alone: it exists on machines on which
		// no stock kernel boots with it.
		"-accel", "tcg,thread=multi", "-smp", strconv.Itoa(or(o.CPUs, 2)), "-m", strconv.Itoa(or(o.MemoryMiB, 4096)),
		"-kernel", o.Kernel.Image, "-initrd", filepath.Join(dir, "initrd"),
		// The emulated processor is as good as it can be, but for tables that make each access
		// to memory longer. Its cycle counter is trusted: the kernel would take a slower clock,
		// which costs whoever looks at it often, as Go's runtime, most of the time. A panic
		// ends the machine, and nobody attacks it.
		"-cpu", "max,la57=off",
		// A kernel that hangs for two minutes says where. It goes on: the same is said where the
		// machine below stood still for as long, as one does that is moved or saved.
		"-append", "console=ttyS0 quiet panic=-1 watchdog_thresh=60 mitigations=off cryptomgr.notests tsc=reliable clocksource=tsc", "-no-reboot",
		"-display", "none", "-monitor", "none", "-nic", "user,model=virtio-net-pci,ipv6=off",
		"-serial", "file:" + filepath.Join(dir, "console"),
		"-virtfs", "local,path=/,mount_tag=" + rootTag + ",security_model=none,multidevs=remap,readonly=on",
		"-device", "virtio-serial-pci",
		"-chardev", "file,id=output,path=/dev/stdout", "-device", fmt.Sprintf("virtserialport,chardev=output,nr=%d", outputPort),
		"-chardev", "file,id=status,path=" + filepath.Join(dir, "status"),
		"-device", fmt.Sprintf("virtserialport,chardev=status,nr=%d", statusPort),
	}
}

// readStatus reads what [Guest] wrote when the command had ended.
func readStatus(path string) (int, error) {
	b, err := os.ReadFile(path) //nolint:gosec // our own file
	if err != nil {
		return 0, fmt.Errorf("read the exit status: %w", err)
	}
	n, err := strconv.Atoi(strings.TrimSuffix(string(b), "\n"))
	if err != nil || !strings.HasSuffix(string(b), "\n") {
		return 0, fmt.Errorf("read the exit status: %q", b)
	}
	return n, nil
}

func tail(path string, lines int) string {
	b, err := os.ReadFile(path) //nolint:gosec // our own file
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(strings.ReplaceAll(string(b), "\r", "")), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
