// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"fmt"
	"iter"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"

	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

// OnNode runs a command in the node's network and returns what it prints.
func OnNode(ctx context.Context, n *rig.Node, name string, args ...string) (string, error) {
	var out []byte
	err := n.Do(func() (err error) {
		out, err = exec.CommandContext(ctx, name, args...).CombinedOutput() //nolint:gosec // arguments are this package's own
		return err
	})
	if err != nil {
		return string(out), fmt.Errorf("on %s: %s %s: %w: %s", n.Name(), name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// Kernel is what the kernel of one node has, as its tools print it, by who owns it.
type Kernel struct {
	Ours, Proxy, Foreign string
}

// ReadKernel reads it.
func ReadKernel(ctx context.Context, n *rig.Node) (Kernel, error) {
	var k Kernel
	rules, err := OnNode(ctx, n, "nft", "-s", "list", "ruleset")
	if err != nil {
		return k, err
	}
	for _, table := range tables(rules) {
		*k.tableOwner(strings.Fields(table)[2]) += table
	}
	virtual, err := OnNode(ctx, n, "ipvsadm", "-Sn")
	if err != nil {
		return k, err
	}
	for line := range strings.Lines(virtual) {
		*k.serverOwner(strings.Fields(line)[2]) += line
	}
	links, err := OnNode(ctx, n, "ip", "-o", "addr")
	if err != nil {
		return k, err
	}
	for line := range strings.Lines(links) {
		*k.linkOwner(strings.Fields(line)[1]) += lifetimes.ReplaceAllString(line, "") + "\n"
	}
	for _, what := range [][]string{{"rule"}, {"-6", "rule"}, {"route", "show", "table", "main"}, {"-6", "route", "show", "table", "main"}} {
		out, err := OnNode(ctx, n, "ip", what...)
		if err != nil {
			return k, err
		}
		k.Foreign += out
	}
	return k, nil
}

func (k *Kernel) tableOwner(name string) *string {
	switch name {
	case "fairlead":
		return &k.Ours
	case "kube-proxy", "nat", "filter", "mangle", "raw": // the latter by iptables
		return &k.Proxy
	}
	return &k.Foreign
}

// firstNodePort of the API server's default range; no Service here has such a port.
const firstNodePort = 30000

// serverOwner knows virtual servers by their address: marks are ours, addresses of the pool
// are, but for node ports, which kube-proxy in ipvs mode serves on all addresses of a node,
// ours included; documentation addresses (RFC 5737) are the tests' own, all others kube-proxy's.
func (k *Kernel) serverOwner(server string) *string {
	ap, err := netip.ParseAddrPort(server)
	switch {
	case err != nil, inPool(ap.Addr()) && ap.Port() < firstNodePort:
		return &k.Ours
	case netip.MustParsePrefix(documentation).Contains(ap.Addr()):
		return &k.Foreign
	}
	return &k.Proxy
}

const documentation = "192.0.2.0/24"

func inPool(a netip.Addr) bool {
	return netip.MustParsePrefix(pool4).Contains(a) || netip.MustParsePrefix(pool6).Contains(a)
}

func (k *Kernel) linkOwner(name string) *string {
	switch name {
	case "dummy-fairlead":
		return &k.Ours
	case proxyLink:
		return &k.Proxy
	}
	return &k.Foreign
}

// lifetimes count down, and indexes come first.
var lifetimes = regexp.MustCompile(`^\d+: |\\ .*|\n`)

// tables splits what nft prints. Its remarks stand between tables and are of none.
func tables(rules string) []string {
	var out []string
	for line := range strings.Lines(rules) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		if strings.HasPrefix(line, "table ") {
			out = append(out, "")
		}
		if len(out) > 0 {
			out[len(out)-1] += line
		}
	}
	return out
}

// realsOf yields the lines of the real servers that an address has by TCP.
func realsOf(ours string, to netip.Addr) iter.Seq[string] {
	prefix := "-a -t " + netip.AddrPortFrom(to, servicePort).String() + " "
	return func(yield func(string) bool) {
		for line := range strings.Lines(ours) {
			if strings.HasPrefix(line, prefix) && !yield(line) {
				return
			}
		}
	}
}
