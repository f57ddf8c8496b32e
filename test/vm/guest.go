// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	rootTag = "outside"
	// Outside is how a machine reaches the loopback of the one that it runs on: the
	// emulator passes on what is sent there.
	Outside = "10.0.2.2"
	inside  = "10.0.2.15/24"
	// Ports of the serial device: the command's output, and its exit status.
	outputPort, statusPort = 1, 2
	// deviceTimeout bounds the wait for a device whose module was loaded.
	deviceTimeout = 20 * time.Second
	// drainTimeout is how long output of processes that outlive the command is waited for.
	drainTimeout = time.Second
	notFound     = 127
)

// Guest says whether this process is the first one of a machine of [Run], and if so does
// its work: it does not return then. Call it first in main.
func Guest() {
	if os.Getpid() != 1 || os.Args[0] != "/"+initPath {
		return
	}
	err := guest()
	if err != nil {
		// To the console, which is shown outside when there is no exit status.
		fmt.Fprintln(os.Stderr, "fairlead-vm: in the machine:", err)
	}
	unix.Sync()
	// The emulator is told to end instead of starting again.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {} // the first process must not end
}

func guest() error {
	b, err := os.ReadFile("/" + orderPath)
	if err != nil {
		return fmt.Errorf("read the order: %w", err)
	}
	var o order
	if err := json.Unmarshal(b, &o); err != nil {
		return fmt.Errorf("read the order: %w", err)
	}
	for _, m := range o.Modules {
		if err := insert(m); err != nil {
			return err
		}
	}
	if err := mountRoot(&o); err != nil {
		return err
	}
	if err := errors.Join(syscall.Chroot("/new"), syscall.Chdir(o.Dir), up("lo"), connect()); err != nil {
		return fmt.Errorf("enter the file system: %w", err)
	}
	output, err := openPort(outputPort)
	if err != nil {
		return err
	}
	report, err := openPort(statusPort)
	if err != nil {
		return err
	}
	status := run(&o, output)
	if _, err := fmt.Fprintf(report, "%d\n", status); err != nil {
		return fmt.Errorf("report the exit status: %w", err)
	}
	return nil
}

func insert(path string) error {
	f, err := os.Open(path) //nolint:gosec // from our own archive
	if err != nil {
		return fmt.Errorf("load a module: %w", err)
	}
	defer f.Close()
	flags := 0
	if !strings.HasSuffix(path, ".ko") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	if err := unix.FinitModule(int(f.Fd()), "", flags); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load %s: %w", path, err)
	}
	return nil
}

// mountRoot makes /new: the file system outside, under a layer in memory that takes what
// is written.
func mountRoot(o *order) error {
	type mount struct{ source, target, kind, data string }
	mounts := []mount{
		{rootTag, "/lower", "9p", "trans=virtio,version=9p2000.L,msize=512000,cache=loose"},
		{"tmpfs", "/layer", "tmpfs", "size=75%"},
		{"overlay", "/new", "overlay", "lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work"},
		{"proc", "/new/proc", "proc", ""},
		{"sysfs", "/new/sys", "sysfs", ""},
		{"devtmpfs", "/new/dev", "devtmpfs", ""},
		{"devpts", "/new/dev/pts", "devpts", ""},
		{"tmpfs", "/new/dev/shm", "tmpfs", ""},
		{"tmpfs", "/new/run", "tmpfs", ""},
		{"tmpfs", "/new/run/tmp", "tmpfs", ""},
	}
	for _, m := range mounts {
		dirs := []string{m.target}
		if m.kind == "overlay" {
			dirs = append(dirs, "/layer/upper", "/layer/work")
		}
		for _, d := range dirs {
			if err := os.MkdirAll(d, 0o755); err != nil { //nolint:gosec // as on every machine
				return fmt.Errorf("mount %s: %w", m.target, err)
			}
		}
		flags := uintptr(0)
		if m.kind == "9p" {
			flags = unix.MS_RDONLY
		}
		if err := unix.Mount(m.source, m.target, m.kind, flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"} {
		if err := os.Symlink(target, "/new/dev/"+name); err != nil {
			return fmt.Errorf("fill /dev: %w", err)
		}
	}
	// The kernel loads further modules by itself, with the modprobe of the machine outside.
	modules := filepath.Join("/new/lib/modules", o.Release)
	if err := os.MkdirAll(modules, 0o755); err != nil { //nolint:gosec // as on every machine
		return fmt.Errorf("mount the modules: %w", err)
	}
	if err := unix.Mount(filepath.Join("/new", o.ModulesDir), modules, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount the modules: %w", err)
	}
	return nil
}

func up(link string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return fmt.Errorf("find %s: %w", link, err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up: %w", link, err)
	}
	return nil
}

// connect gives the machine its only address. Without a default route nothing but
// [Outside] can be reached.
func connect() error {
	addr, err := netlink.ParseAddr(inside)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if err := netlink.AddrAdd(l, addr); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	return up("eth0")
}

// openPort waits for the device, which appears a moment after its module.
func openPort(nr int) (*os.File, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	path := fmt.Sprintf("/dev/vport1p%d", nr)
	for deadline := time.Now().Add(deviceTimeout); ; <-tick.C {
		matches, _ := filepath.Glob(fmt.Sprintf("/dev/vport*p%d", nr))
		if len(matches) > 0 {
			path = matches[0]
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0) //nolint:gosec // a device of our own
		if err == nil {
			return f, nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("open a port to the outside: %w", err)
		}
	}
}

// run runs the command to its end and returns its exit status. It waits for every process
// that ends meanwhile, as the first process must.
func run(o *order, output io.Writer) int {
	env := append(slices.Clone(o.Env), "TMPDIR=/run/tmp")
	for _, kv := range env {
		if path, ok := strings.CutPrefix(kv, "PATH="); ok {
			_ = os.Setenv("PATH", path) // for LookPath; the name is valid
		}
	}
	program, err := exec.LookPath(o.Argv[0])
	if err != nil {
		_, _ = fmt.Fprintln(output, "fairlead-vm:", err)
		return notFound
	}
	r, w, err := os.Pipe()
	if err != nil {
		_, _ = fmt.Fprintln(output, "fairlead-vm:", err)
		return notFound
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		_, _ = fmt.Fprintln(output, "fairlead-vm:", err)
		return notFound
	}
	p, err := os.StartProcess(program, o.Argv, &os.ProcAttr{Env: env, Files: []*os.File{null, w, w}, Sys: &syscall.SysProcAttr{Setsid: true}})
	_ = w.Close() // the command has it
	if err != nil {
		_, _ = fmt.Fprintln(output, "fairlead-vm:", err)
		return notFound
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(output, r) // ends with the last process that writes
	}()
	status := reap(p.Pid)
	t := time.NewTimer(drainTimeout)
	defer t.Stop()
	select {
	case <-copied:
	case <-t.C:
	}
	return status
}

// reap waits for processes until the one with this number has ended.
func reap(pid int) int {
	for {
		var ws syscall.WaitStatus
		got, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return notFound
		case got == pid && ws.Signaled():
			return 128 + int(ws.Signal())
		case got == pid && ws.Exited():
			return ws.ExitStatus()
		}
	}
}
