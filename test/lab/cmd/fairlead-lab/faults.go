// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

func killAgent(ctx context.Context, c *call) error {
	return c.change(ctx, 1, func(lab *cluster.Lab, args []string) error {
		killed, err := lab.KillAgent(args[0])
		if err != nil {
			return err
		}
		fmt.Println("killed at", killed.Format(time.RFC3339Nano))
		return nil
	})
}

func partition(ctx context.Context, c *call) error {
	from := c.flags.String("from", "", "")
	nodes, err := c.mixed(1, -1)
	if err != nil {
		return err
	}
	cut := cluster.Cut{Nodes: nodes, From: cluster.From(*from)}
	switch cut.From {
	case cluster.FromAPI, cluster.FromPeers, cluster.FromAll:
	default:
		return usageError("partition: --from must be api, peers or all, not %q", *from)
	}
	return c.locked(ctx, func(lab *cluster.Lab) error {
		at, err := lab.Partition(ctx, cut)
		if err != nil {
			return err
		}
		fmt.Println("cut at", at.Format(time.RFC3339Nano))
		return nil
	})
}

func heal(ctx context.Context, c *call) error {
	return c.change(ctx, 0, func(lab *cluster.Lab, _ []string) error {
		at, err := lab.Heal(ctx)
		if err != nil {
			return err
		}
		fmt.Println("healed at", at.Format(time.RFC3339Nano))
		return nil
	})
}

func burn(ctx context.Context, c *call) error {
	loops := c.flags.Int("loops", 0, "")
	length := c.flags.Duration("for", 0, "")
	args, err := c.mixed(1, 1)
	if err != nil {
		return err
	}
	if *loops <= 0 || *length <= 0 {
		return usageError("burn: --loops and --for are needed, and must be positive")
	}
	return c.locked(ctx, func(lab *cluster.Lab) error { return lab.Burn(ctx, args[0], *loops, *length) })
}

func limit(ctx context.Context, c *call) error {
	args, err := c.args(2, 2)
	if err != nil {
		return err
	}
	node, ok := strings.CutSuffix(args[0], "/agent")
	if !ok {
		return usageError("limit: want NODE/agent, not %q", args[0])
	}
	milli, err := cluster.ParseMilliCPU(args[1])
	if err != nil {
		return usageError("limit: %v", err)
	}
	return c.locked(ctx, func(lab *cluster.Lab) error { return lab.LimitAgent(node, milli) })
}

// spin is what burn runs on the node: busy loops, each on a thread of its own.
func spin(_ context.Context, c *call) error {
	args, err := c.args(2, 2)
	if err != nil {
		return err
	}
	loops, err := strconv.Atoi(args[0])
	if err != nil {
		return usageError("spin: %v", err)
	}
	length, err := time.ParseDuration(args[1])
	if err != nil {
		return usageError("spin: %v", err)
	}
	busy(loops, length)
	return nil
}

// busy returns when every loop has ended. Each looks at the clock itself: a
// timer of a process that starves itself might be late.
func busy(loops int, length time.Duration) {
	end := time.Now().Add(length)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(loops))
	var wg sync.WaitGroup
	for range loops {
		wg.Go(func() {
			for time.Now().Before(end) {
			}
		})
	}
	wg.Wait()
}
