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
	"syscall"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

// checkMachine looks for what the lab needs and fails with one line that says
// what is missing.
func checkMachine(ctx context.Context, proxyMode string, family cluster.Family) error {
	if os.Geteuid() != 0 {
		return errors.New("run as root: the lab makes network namespaces")
	}
	packages := [][2]string{
		{"go", "Go 1.26"},
		{"gcc", "gcc"},
		{"pkg-config", "pkg-config"},
		{"ip", "iproute2"},
		{"mount", "mount"},
		{"nft", "nftables"},
		{"iptables", "iptables"},
		{"iptables-save", "iptables"},
		{"ip6tables", "iptables"},
		{"conntrack", "conntrack"},
		{"arping", "iputils-arping"},
		{"ping", "iputils-ping"},
		{"curl", "curl"},
	}
	for _, p := range packages {
		if _, err := exec.LookPath(p[0]); err != nil {
			return fmt.Errorf("%s is missing: install the package %s", p[0], p[1])
		}
	}
	if err := exec.CommandContext(ctx, "pkg-config", "--exists", "libseccomp").Run(); err != nil {
		return errors.New("the headers of libseccomp are missing: install the package libseccomp-dev")
	}
	if err := checkOverlay(); err != nil {
		return err
	}
	if family == cluster.FamilyDual && !hasIPv6() {
		return &statusError{exitUnsupported, "--family dual does not work on this kernel: it has no IPv6, or it is switched off (ipv6.disable=1)"}
	}
	return checkProxyMode(ctx, proxyMode, family)
}

func hasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

func checkOverlay() error {
	b, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return fmt.Errorf("file systems: %w", err)
	}
	if !strings.Contains(string(b), "\toverlay\n") {
		return &statusError{exitUnsupported, "the kernel has no overlay file system: modprobe overlay"}
	}
	return nil
}

// checkProxyMode tries what kube-proxy will need in a network namespace of its
// own. The mode is never changed silently.
func checkProxyMode(ctx context.Context, mode string, family cluster.Family) error {
	switch mode {
	case "iptables":
		const script = "%[1]s -t nat -A POSTROUTING -m comment --comment x -m addrtype --dst-type LOCAL -m conntrack --ctstate NEW -m mark --mark 1" +
			" -m statistic --mode random --probability 0.5 -j MASQUERADE && %[1]s -A INPUT -m recent --name x --rcheck -j REJECT"
		for _, tool := range perFamily(family, "iptables", "ip6tables") {
			if out, err := inNewNetwork(ctx, "sh", "-c", fmt.Sprintf(script, tool)); err != nil {
				return unsupported(mode, family, tool+": "+out)
			}
		}
	case "nftables":
		const script = "add table %[1]s x; add chain %[1]s x y { type nat hook postrouting priority 100; };" +
			" add rule %[1]s x y fib daddr type local numgen random mod 2 0 masquerade"
		for _, table := range perFamily(family, "ip", "ip6") {
			if out, err := inNewNetwork(ctx, "nft", fmt.Sprintf(script, table)); err != nil {
				return unsupported(mode, family, "table "+table+": "+out)
			}
		}
	case "ipvs":
		if _, err := os.Stat("/proc/net/ip_vs"); err != nil {
			return &statusError{exitUnsupported, "--proxy-mode ipvs does not work on this kernel: ip_vs is missing, neither built in nor loaded (modprobe ip_vs)"}
		}
	default:
		return usageError("--proxy-mode must be iptables, nftables or ipvs, not %q", mode)
	}
	return nil
}

// perFamily is what is needed for IPv4, and what for IPv6 if there is any.
func perFamily(family cluster.Family, four, six string) []string {
	if family == cluster.FamilyDual {
		return []string{four, six}
	}
	return []string{four}
}

func unsupported(mode string, family cluster.Family, detail string) error {
	return &statusError{exitUnsupported, fmt.Sprintf("--proxy-mode %s --family %s does not work on this kernel: %s", mode, family, detail)}
}

func inNewNetwork(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // fixed arguments
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	// iptables-legacy would leave its lock file on the machine.
	cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE=/dev/null")
	out, err := cmd.CombinedOutput()
	first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return first, err
}

const modulePath = "module github.com/fairlead-lb/fairlead\n"

// sourceRoot is Fairlead's source tree: the one given, or the one around the
// working directory or the executable.
func sourceRoot(given string) (string, error) {
	if given != "" {
		if !isSource(given) {
			return "", fmt.Errorf("--source %s is not Fairlead's source tree", given)
		}
		return filepath.Abs(given)
	}
	var starts []string
	if wd, err := os.Getwd(); err == nil {
		starts = append(starts, wd)
	}
	if self, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(self))
	}
	for _, d := range starts {
		for ; d != filepath.Dir(d); d = filepath.Dir(d) {
			if isSource(d) {
				return d, nil
			}
		}
	}
	return "", errors.New("Fairlead's source tree is neither around the working directory nor around the executable: give --source") //nolint:staticcheck // a name starts the sentence
}

func isSource(dir string) bool {
	b, err := os.ReadFile(filepath.Join(dir, "go.mod")) //nolint:gosec // reads go.mod only
	return err == nil && strings.Contains(string(b), modulePath)
}
