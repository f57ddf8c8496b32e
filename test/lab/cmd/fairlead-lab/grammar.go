// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

// command is one word of the grammar.
type command struct {
	name, args, help string
	run              func(ctx context.Context, c *call) error
	// internal commands are run by the lab itself and not shown.
	internal bool
}

// call is one invocation.
type call struct {
	flags    *flag.FlagSet
	stateDir *string
	argv     []string
}

// args parses the flags and returns the words after them, which must be
// between low and high in number; high < 0 means any number. The "--" after
// exec's host is dropped; one right after the flags the flag package drops.
func (c *call) args(low, high int) ([]string, error) {
	if err := c.flags.Parse(c.argv); err != nil {
		return nil, usageError("%s: %v", c.flags.Name(), err)
	}
	return c.count(c.flags.Args(), low, high)
}

// mixed is args for commands whose own flags may stand between and after the
// words.
func (c *call) mixed(low, high int) ([]string, error) {
	var words []string
	for rest := c.argv; ; {
		if err := c.flags.Parse(rest); err != nil {
			return nil, usageError("%s: %v", c.flags.Name(), err)
		}
		if rest = c.flags.Args(); len(rest) == 0 {
			return c.count(words, low, high)
		}
		words, rest = append(words, rest[0]), rest[1:]
	}
}

func (c *call) count(words []string, low, high int) ([]string, error) {
	if c.flags.Name() == "exec" && len(words) > 1 && words[1] == "--" {
		words = slices.Delete(slices.Clone(words), 1, 2)
	}
	if len(words) < low || (high >= 0 && len(words) > high) {
		for _, cmd := range commands() {
			if cmd.name == c.flags.Name() {
				return nil, usageError("usage: fairlead-lab %s [--state-dir D] %s", cmd.name, cmd.args)
			}
		}
	}
	return words, nil
}

func commands() []command {
	return []command{
		{name: "up", args: "[--nodes N] [--proxy-mode iptables|nftables|ipvs] [--family ipv4|dual] [--without-fairlead] [--bin-dir D] [--source D]", help: "start a lab", run: up},
		{name: "down", help: "take the lab away, also after a crash", run: down},
		{name: "status", args: "[-o json]", help: "show hosts, addresses and components", run: status},
		{name: "kubeconfig", help: "print the path of the administrator's kubeconfig; its server answers inside the lab only", run: kubeconfig},
		{name: "kubectl", args: "-- ARGS", help: "run kubectl against the lab, standard input passed through", run: kubectl},
		{name: "exec", args: "HOST -- CMD", help: "run a command on a node, a client or the switch", run: execute},
		{name: "kill", args: "NODE", help: "cut a node's power; prints the moment as \"cut at TIME\"", run: kill},
		{name: "start", args: "NODE", help: "switch a killed node on again", run: start},
		{name: "link", args: "HOST up|down", help: "plug or pull a host's network cable", run: link},
		{name: "pause", args: "apiserver|etcd|controller|NODE/agent", help: "freeze a component (SIGSTOP)", run: pause},
		{name: "resume", args: "apiserver|etcd|controller|NODE/agent", help: "continue a frozen component", run: resume},
		{name: "kill-agent", args: "NODE", help: "kill a node's agent (SIGKILL); prints the moment as \"killed at TIME\"", run: killAgent},
		{name: "partition", args: "NODE… --from api|peers|all", help: "cut nodes off from the API server, from all other nodes, or both; clients reach them still", run: partition},
		{name: "heal", help: "end all partitions", run: heal},
		{name: "burn", args: "NODE --loops N --for D", help: "keep a node's CPU busy, beside its other processes; returns at once", run: burn},
		{name: "limit", args: "NODE/agent 50m|none", help: "limit the CPU time of a node's agent until it is started again", run: limit},
		{name: "add", args: "client|router NAME", help: "add a client, or a router; prints its name and addresses", run: add},
		{name: "load-image", args: "TAR", help: "add the images of a docker archive to the lab's registry", run: loadImage},
		{name: "logs", args: "COMPONENT", help: "print a log: apiserver, etcd, controller-manager, scheduler, NODE/kubelet, NODE/containerd, NODE/kube-proxy, controller, node-agent", run: logs},
		{name: "image", args: "--target T -t NAME [--source D] [--state-dir D | -o TAR]", help: "build an image with the Dockerfile's steps", run: buildImage},
		{name: "build", args: "[--bin-dir D] [--prune]", help: "build the binaries that \"up\" needs, and nothing else", run: build},
		{name: "init", run: initHost, internal: true},
		{name: "registry", run: registry, internal: true},
		{name: "spin", run: spin, internal: true},
	}
}

func dispatch(ctx context.Context, args []string) error {
	if len(args) == 0 {
		usage(os.Stderr)
		return &statusError{status: exitUsage}
	}
	if args[0] == "help" || args[0] == "--help" || args[0] == "-h" {
		usage(os.Stdout)
		return nil
	}
	for _, c := range commands() {
		if c.name != args[0] {
			continue
		}
		fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
		fs.SetOutput(io.Discard)
		fs.Usage = func() {}
		dir := fs.String("state-dir", defaultStateDir(), "where the lab keeps everything")
		return c.run(ctx, &call{flags: fs, stateDir: dir, argv: args[1:]})
	}
	return usageError("no command %q; see fairlead-lab --help", args[0])
}

func usage(w io.Writer) {
	var b strings.Builder
	b.WriteString("fairlead-lab runs a Kubernetes cluster in network namespaces of this machine.\n\n" +
		"Usage: fairlead-lab COMMAND [--state-dir D] …\n\n")
	for _, c := range commands() {
		if !c.internal {
			fmt.Fprintf(&b, "  %s\n        %s\n", strings.TrimSpace(c.name+" "+c.args), c.help)
		}
	}
	fmt.Fprintf(&b, "\nThe state directory is %s unless --state-dir says otherwise; labs in different\n"+
		"directories run side by side. Exit status: 0 done, 1 failed, 2 wrong usage, 3 the kernel cannot\n"+
		"do it; exec and kubectl pass the command's own status through.\n", defaultStateDir())
	fmt.Fprint(w, b.String()) // nowhere to report it
}

// defaultStateDir follows the XDG base directory specification.
func defaultStateDir() string {
	base := os.Getenv("XDG_STATE_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			home = "/tmp"
		}
		base = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(base, "fairlead-lab")
}

// open opens the call's lab. Progress goes to standard output.
func (c *call) open() (*cluster.Lab, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("own path: %w", err)
	}
	return cluster.Open(*c.stateDir, self, os.Stdout, time.Now)
}
