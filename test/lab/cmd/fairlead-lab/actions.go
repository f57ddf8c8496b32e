// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"time"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/host"
	"github.com/fairlead-lb/fairlead/test/lab/image"
)

func kubeconfig(_ context.Context, c *call) error {
	if _, err := c.args(0, 0); err != nil {
		return err
	}
	lab, err := c.open()
	if err != nil {
		return err
	}
	path, err := lab.Kubeconfig()
	if err != nil {
		return err
	}
	fmt.Println(path)
	return nil
}

// passStatus turns the end of a foreign command into our own exit status.
func passStatus(err error) error {
	if err == nil {
		return nil
	}
	if s, ok := host.ExitStatus(err); ok {
		return &statusError{status: s}
	}
	return err
}

func kubectl(ctx context.Context, c *call) error {
	args, err := c.args(0, -1)
	if err != nil {
		return err
	}
	lab, err := c.open()
	if err != nil {
		return err
	}
	// Signals reach kubectl from package host; ctx would kill it instead.
	return passStatus(lab.Kubectl(context.WithoutCancel(ctx), args, os.Stdin, os.Stdout, os.Stderr))
}

func execute(ctx context.Context, c *call) error {
	args, err := c.args(2, -1)
	if err != nil {
		return err
	}
	lab, err := c.open()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), args[1], args[2:]...) //nolint:gosec // that is the command's purpose
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if cmd.Dir, err = os.Getwd(); err != nil {
		return fmt.Errorf("working directory: %w", err)
	}
	err = lab.Exec(args[0], cmd)
	if errors.Is(err, exec.ErrNotFound) {
		return &statusError{status: 127, msg: err.Error()}
	}
	return passStatus(err)
}

// lockPatience is how long a command waits for another one on the same lab, so that a
// script may cut two nodes' power at the same time. "up" takes longer.
const lockPatience = 5 * time.Second

// change opens the lab under its lock, for commands with a fixed number of
// words.
func (c *call) change(ctx context.Context, words int, f func(lab *cluster.Lab, args []string) error) error {
	args, err := c.args(words, words)
	if err != nil {
		return err
	}
	return c.locked(ctx, func(lab *cluster.Lab) error { return f(lab, args) })
}

// locked opens the lab under its lock.
func (c *call) locked(ctx context.Context, f func(lab *cluster.Lab) error) error {
	lab, err := c.open()
	if err != nil {
		return err
	}
	if _, err := lab.Kubeconfig(); err != nil {
		return err
	}
	release, err := lab.Lock(ctx, lockPatience)
	if err != nil {
		return err
	}
	defer release()
	return f(lab)
}

func kill(ctx context.Context, c *call) error {
	return c.change(ctx, 1, func(lab *cluster.Lab, args []string) error {
		cut, err := lab.Kill(ctx, args[0])
		if err != nil {
			return err
		}
		fmt.Println("cut at", cut.Format(time.RFC3339Nano))
		return nil
	})
}

func start(ctx context.Context, c *call) error {
	return c.change(ctx, 1, func(lab *cluster.Lab, args []string) error { return lab.StartHost(ctx, args[0]) })
}

func link(ctx context.Context, c *call) error {
	return c.change(ctx, 2, func(lab *cluster.Lab, args []string) error {
		if args[1] != "up" && args[1] != "down" {
			return usageError("link: want up or down, not %q", args[1])
		}
		return lab.Link(args[0], args[1] == "up")
	})
}

func pause(ctx context.Context, c *call) error {
	return c.change(ctx, 1, func(lab *cluster.Lab, args []string) error { return lab.Freeze(ctx, args[0]) })
}

func resume(ctx context.Context, c *call) error {
	return c.change(ctx, 1, func(lab *cluster.Lab, args []string) error { return lab.Thaw(args[0]) })
}

func add(ctx context.Context, c *call) error {
	return c.change(ctx, 2, func(lab *cluster.Lab, args []string) error {
		switch args[0] {
		case "client":
			h, err := lab.AddClient(ctx, args[1])
			if err != nil {
				return err
			}
			fmt.Println(h.Name, h.Address)
		case "router":
			h, err := lab.AddRouter(ctx, args[1])
			if err != nil {
				return err
			}
			fmt.Println(h.Name, h.Address, h.Second)
		default:
			return usageError("add: want client or router, not %q", args[0])
		}
		return nil
	})
}

func loadImage(ctx context.Context, c *call) error {
	return c.change(ctx, 1, func(lab *cluster.Lab, args []string) error {
		f, err := os.Open(args[0])
		if err != nil {
			return fmt.Errorf("load-image: %w", err)
		}
		defer f.Close()
		refs, err := lab.Store().Load(f)
		if err != nil {
			return fmt.Errorf("load-image: %s: %w", args[0], err)
		}
		for _, r := range refs {
			fmt.Println("loaded", r)
		}
		return nil
	})
}

func logs(ctx context.Context, c *call) error {
	args, err := c.args(1, 1)
	if err != nil {
		return err
	}
	lab, err := c.open()
	if err != nil {
		return err
	}
	if args[0] == "controller" || args[0] == "node-agent" {
		return passStatus(lab.Kubectl(context.WithoutCancel(ctx), []string{
			"-n", "fairlead-system", "logs", "--prefix", "--tail=-1",
			"-l", "app.kubernetes.io/component=" + args[0],
		}, nil, os.Stdout, os.Stderr))
	}
	return lab.Logs(args[0], os.Stdout)
}

// initHost is PID 1 of a host.
func initHost(ctx context.Context, c *call) error {
	args, err := c.args(1, 1)
	if err != nil {
		return err
	}
	return host.RunInit(ctx, args[0])
}

// registry serves the lab's images to its nodes.
func registry(ctx context.Context, c *call) error {
	args, err := c.args(2, 2)
	if err != nil {
		return err
	}
	srv := &http.Server{Addr: args[1], Handler: image.NewStore(args[0]).Handler(), ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		_ = srv.Close() // the process ends anyway
	}()
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("registry: %w", err)
	}
	return nil
}
