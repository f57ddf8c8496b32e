// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Up starts the cluster and, unless extra says --without-fairlead, installs Fairlead.
func (l *Lab) Up(ctx context.Context, extra ...string) error {
	_, err := l.loud(ctx, "up", extra...)
	return err
}

// Down removes everything that the lab made. It is safe to call at any time.
func (l *Lab) Down(ctx context.Context) error {
	_, err := l.loud(ctx, "down")
	return err
}

// Kubectl runs kubectl against the lab's API server.
func (l *Lab) Kubectl(ctx context.Context, args ...string) (Result, error) {
	return l.lab(ctx, nil, "kubectl", append([]string{"--"}, args...)...)
}

// KubectlIn is [Lab.Kubectl] with a standard input.
func (l *Lab) KubectlIn(ctx context.Context, stdin string, args ...string) (Result, error) {
	return l.lab(ctx, strings.NewReader(stdin), "kubectl", append([]string{"--"}, args...)...)
}

// Apply applies a manifest from memory.
func (l *Lab) Apply(ctx context.Context, manifest string) (Result, error) {
	return l.KubectlIn(ctx, manifest, "apply", "-f", "-")
}

// Exec runs a command on a host of the lab: a node or a client.
func (l *Lab) Exec(ctx context.Context, host string, argv ...string) (Result, error) {
	return l.lab(ctx, nil, "exec", append([]string{host, "--"}, argv...)...)
}

// Kill cuts the node's power and returns the instant of the cut, taken by the lab on
// this machine's wall clock.
func (l *Lab) Kill(ctx context.Context, node string) (time.Time, error) {
	return l.moment(ctx, "cut at ", "kill", node)
}

// KillAgent sends SIGKILL to a node's agent and returns the instant just before.
func (l *Lab) KillAgent(ctx context.Context, node string) (time.Time, error) {
	return l.moment(ctx, "killed at ", "kill-agent", node)
}

// Partition cuts nodes off "api", "peers" or "all", besides those that are cut off
// already, and returns the instant just before. Clients reach both sides, and so do
// packets between pods.
func (l *Lab) Partition(ctx context.Context, from string, nodes ...string) (time.Time, error) {
	return l.moment(ctx, "cut at ", "partition", append(nodes, "--from", from)...)
}

// Heal ends all partitions and returns the instant just before.
func (l *Lab) Heal(ctx context.Context) (time.Time, error) {
	return l.moment(ctx, "healed at ", "heal")
}

// moment runs a command that prints when it acted.
func (l *Lab) moment(ctx context.Context, label, name string, args ...string) (time.Time, error) {
	res, err := l.lab(ctx, nil, name, args...)
	if err != nil {
		return time.Time{}, err
	}
	for line := range strings.Lines(res.Stdout) {
		if _, after, ok := strings.Cut(line, label); ok {
			at, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(after))
			if err != nil {
				return time.Time{}, fmt.Errorf("%s %s: read the instant: %w", name, strings.Join(args, " "), err)
			}
			return at, nil
		}
	}
	return time.Time{}, fmt.Errorf("%s %s: no %q line in %q", name, strings.Join(args, " "), label, res.Stdout)
}

// AddRouter adds a machine that forwards packets between the lab's networks, and prints its
// name and addresses.
func (l *Lab) AddRouter(ctx context.Context, name string) (Result, error) {
	return l.lab(ctx, nil, "add", "router", name)
}

// Burn starts busy loops on a node, in competition with its kubelet and its pods, and
// returns at once. They end after length, or with the lab.
func (l *Lab) Burn(ctx context.Context, node string, loops int, length time.Duration) error {
	_, err := l.lab(ctx, nil, "burn", node, "--loops", strconv.Itoa(loops), "--for", length.String())
	return err
}

// LimitAgent limits the CPU time of a node's agent, as "50m"; "none" lifts the limit. An
// agent that is started again has none.
func (l *Lab) LimitAgent(ctx context.Context, node, cpu string) error {
	_, err := l.lab(ctx, nil, "limit", node+"/agent", cpu)
	return err
}

// Start boots a killed node again.
func (l *Lab) Start(ctx context.Context, node string) error {
	_, err := l.lab(ctx, nil, "start", node)
	return err
}

// Link sets a node's link up or down and leaves its processes running.
func (l *Lab) Link(ctx context.Context, node, state string) error {
	_, err := l.lab(ctx, nil, "link", node, state)
	return err
}

// Pause stops a component (apiserver, etcd, controller, NODE/agent) without ending it.
func (l *Lab) Pause(ctx context.Context, component string) error {
	_, err := l.lab(ctx, nil, "pause", component)
	return err
}

// Resume continues a paused component.
func (l *Lab) Resume(ctx context.Context, component string) error {
	_, err := l.lab(ctx, nil, "resume", component)
	return err
}

// Get decodes what `kubectl get ARGS -o json` prints.
func Get[T any](ctx context.Context, l *Lab, args ...string) (T, error) {
	var out T
	body, err := l.get(ctx, args)
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(body, &out); err != nil {
		return out, fmt.Errorf("kubectl get %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}

// get reads through the session's proxy where there is one, else by a kubectl.
func (l *Lab) get(ctx context.Context, args []string) ([]byte, error) {
	if p, ok := path(args); ok {
		body, err := l.read(ctx, p)
		if !errors.Is(err, errNoProxy) {
			return body, err
		}
	}
	res, err := l.Kubectl(ctx, append(append([]string{"get"}, args...), "-o", "json")...)
	return []byte(res.Stdout), err
}
