// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/fairlead-lb/fairlead/test/lab/artifacts"
	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

func up(ctx context.Context, c *call) error {
	nodes := c.flags.Int("nodes", 4, "")
	mode := c.flags.String("proxy-mode", "iptables", "")
	family := c.flags.String("family", "", "")
	without := c.flags.Bool("without-fairlead", false, "")
	binDir := c.flags.String("bin-dir", "", "")
	source := c.flags.String("source", "", "")
	if _, err := c.args(0, 0); err != nil {
		return err
	}
	fam, err := parseFamily(*family)
	if err != nil {
		return err
	}
	if err := checkMachine(ctx, *mode, fam); err != nil {
		return err
	}
	root, err := sourceRoot(*source)
	if err != nil {
		return err
	}
	lab, err := c.open()
	if err != nil {
		return err
	}
	release, err := lab.Lock(ctx, 0)
	if err != nil {
		return err
	}
	defer release()
	if err := lab.CheckFree(); err != nil {
		return err
	}
	binaries, err := ensureBinaries(ctx, *binDir)
	if err != nil {
		return err
	}
	o := cluster.Options{Nodes: *nodes, ProxyMode: *mode, Family: fam, Fairlead: !*without}
	in := cluster.Inputs{Binaries: binaries, Source: root, Images: imageMaker(lab, *c.stateDir, root, o.Fairlead)}
	began := time.Now()
	if err := lab.Up(ctx, o, in); err != nil {
		return fmt.Errorf("%w (clean up with: fairlead-lab down --state-dir %s)", err, *c.stateDir)
	}
	fmt.Printf("The lab is up after %.0f s. Try: fairlead-lab kubectl --state-dir %s -- get nodes -o wide\n", time.Since(began).Seconds(), *c.stateDir)
	if *without {
		fmt.Printf("Without Fairlead nobody initializes the nodes; if you want pods, remove the taint:\n"+
			"  fairlead-lab kubectl --state-dir %s -- taint nodes --all node.cloudprovider.kubernetes.io/uninitialized-\n", *c.stateDir)
	}
	return nil
}

// parseFamily reads --family; nothing means both where the kernel has IPv6.
func parseFamily(s string) (cluster.Family, error) {
	switch f := cluster.Family(s); f {
	case cluster.FamilyIPv4, cluster.FamilyDual:
		return f, nil
	case "":
		if hasIPv6() {
			return cluster.FamilyDual, nil
		}
		return cluster.FamilyIPv4, nil
	case "ipv6":
		return "", usageError("--family ipv6 comes with a later release")
	default:
		return "", usageError("--family must be ipv4 or dual, not %q", s)
	}
}

func ensureBinaries(ctx context.Context, binDir string) (map[string]string, error) {
	b, err := newBuilder(binDir)
	if err != nil {
		return nil, err
	}
	return b.Ensure(ctx, artifacts.Targets())
}

func newBuilder(binDir string) (*artifacts.Builder, error) {
	cache, err := artifacts.DefaultCache()
	if err != nil {
		return nil, err
	}
	return &artifacts.Builder{Cache: cache, BinDir: binDir, Log: artifacts.WriterLogger(os.Stdout)}, nil
}

func build(ctx context.Context, c *call) error {
	binDir := c.flags.String("bin-dir", "", "")
	prune := c.flags.Bool("prune", false, "")
	if _, err := c.args(0, 0); err != nil {
		return err
	}
	if _, err := ensureBinaries(ctx, *binDir); err != nil {
		return err
	}
	if !*prune {
		return nil
	}
	b, err := newBuilder(*binDir)
	if err != nil {
		return err
	}
	n, err := b.Prune(ctx, artifacts.Targets())
	if err != nil {
		return err
	}
	fmt.Printf("removed %d outdated binaries\n", n)
	return nil
}

// imageMaker returns the function that fills the lab's registry.
func imageMaker(lab *cluster.Lab, stateDir, source string, fairlead bool) func(context.Context) error {
	return func(ctx context.Context) error {
		scratch := filepath.Join(stateDir, "hosts", "scratch")
		if err := cluster.TestImages(ctx, lab.Store(), source, scratch); err != nil {
			return err
		}
		if !fairlead {
			return nil
		}
		return cluster.FairleadImages(ctx, lab.Store(), source)
	}
}

func down(ctx context.Context, c *call) error {
	if _, err := c.args(0, 0); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("run as root")
	}
	lab, err := c.open()
	if err != nil {
		return err
	}
	if _, err := os.Stat(*c.stateDir); err == nil {
		release, err := lab.Lock(ctx, 0)
		if err != nil {
			return err
		}
		defer release()
	}
	if err := lab.Down(ctx); err != nil {
		return err
	}
	fmt.Println("The lab is down; nothing is left.")
	return nil
}

func status(ctx context.Context, c *call) error {
	format := c.flags.String("o", "", "")
	if _, err := c.args(0, 0); err != nil {
		return err
	}
	lab, err := c.open()
	if err != nil {
		return err
	}
	s, err := lab.Status(ctx)
	if err != nil {
		return err
	}
	switch *format {
	case "json":
		return s.WriteJSON(os.Stdout)
	case "":
		return s.WriteText(os.Stdout)
	default:
		return usageError("-o must be json, not %q", *format)
	}
}
