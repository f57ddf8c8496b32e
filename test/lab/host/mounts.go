// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Covered are the directories that a host has of its own; everything else is
// the machine's. A state directory must not lie in one of them.
func Covered() []string { return []string{"/run", "/var/log", "/var/lib", "/proc", "/sys"} }

func mount(source, target, fstype string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
	return nil
}

func bind(source, target string) error {
	return mount(source, target, "", unix.MS_BIND, "")
}

// tunables are kernel settings that kubelet insists on and that are not
// namespaced. A private copy with the wanted value lies over each one, so that
// kubelet is satisfied and the machine keeps its own.
func tunables() map[string]string {
	return map[string]string{
		"vm/overcommit_memory":      "1\n",
		"vm/panic_on_oom":           "0\n",
		"kernel/panic":              "10\n",
		"kernel/panic_on_oops":      "1\n",
		"kernel/keys/root_maxkeys":  "1000000\n",
		"kernel/keys/root_maxbytes": "25000000\n",
	}
}

// prepareFilesystem builds the host's view of the file system inside a fresh
// mount namespace. No mount point is created on the machine: what a host needs
// below /var/lib is made in an overlay whose upper side is memory.
func prepareFilesystem(s *Spec, hs []hierarchy) error {
	if err := mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return err
	}
	if err := bind(filepath.Join(s.Dir, "log"), "/var/log"); err != nil {
		return err
	}
	if err := mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	if err := mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	if err := mountCgroups(hs); err != nil {
		return err
	}
	if err := ownFile(s, "hosts", s.EtcHosts, "/etc/hosts"); err != nil {
		return err
	}
	if s.Node {
		if err := prepareNode(s); err != nil {
			return err
		}
	}
	for _, b := range s.Binds {
		if err := os.MkdirAll(b.Target, 0o750); err != nil {
			return fmt.Errorf("bind mount: %w", err)
		}
		if err := bind(b.Source, b.Target); err != nil {
			return err
		}
	}
	return mount("none", "/", "", unix.MS_REC|unix.MS_SHARED, "")
}

func prepareNode(s *Spec) error {
	upper, work := "/run/var-lib/upper", "/run/var-lib/work"
	for _, d := range []string{upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil { //nolint:gosec // stands for /var/lib, which is world-readable
			return fmt.Errorf("/var/lib: %w", err)
		}
	}
	opts := "lowerdir=/var/lib,upperdir=" + upper + ",workdir=" + work
	if err := mount("overlay", "/var/lib", "overlay", 0, opts); err != nil {
		return err
	}
	for name, value := range tunables() {
		if _, err := os.Stat("/proc/sys/" + name); err != nil {
			continue
		}
		if err := ownFile(s, strings.ReplaceAll(name, "/", "-"), value, "/proc/sys/"+name); err != nil {
			return err
		}
	}
	return nil
}

// ownFile lays a file of the host's own over an existing one.
func ownFile(s *Spec, name, content, target string) error {
	dir := filepath.Join(s.Dir, "etc")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("host file: %w", err)
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil { //nolint:gosec // read by every user of the host
		return fmt.Errorf("host file: %w", err)
	}
	return bind(path, target)
}

func applySysctls(s *Spec) error {
	for name, value := range s.Sysctls {
		if err := os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0o600); err != nil {
			return fmt.Errorf("sysctl net/%s: %w", name, err)
		}
	}
	return nil
}
