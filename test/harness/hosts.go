// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// FairleadNodes are the lab's four nodes by name, the control plane first.
func FairleadNodes() []string {
	return []string{"control-plane", "worker", "worker2", "worker3"}
}

// ExcludeLabel keeps a node from announcing; kubeadm and kind put it on control-plane nodes.
const ExcludeLabel = "node.kubernetes.io/exclude-from-external-load-balancers"

// ExcludeControlPlane labels the control plane as kubeadm does, so that no address is
// announced by the node whose power cut would take the API server away.
func (l *Lab) ExcludeControlPlane(ctx context.Context) error {
	_, err := l.Kubectl(ctx, "label", "--overwrite", "node", FairleadNodes()[0], ExcludeLabel+"=")
	return err
}

// Workers are the nodes that announce.
func Workers() []string { return FairleadNodes()[1:] }

// MACTable maps each node's hardware address to the node's name.
func (l *Lab) MACTable(ctx context.Context, nodes []string) (map[string]string, error) {
	table := map[string]string{}
	for _, n := range nodes {
		mac, err := l.MAC(ctx, n)
		if err != nil {
			return nil, fmt.Errorf("hardware address of %s: %w", n, err)
		}
		table[mac] = n
	}
	return table, nil
}

// Traces looks for what Fairlead could have left on a node: links, nftables tables and
// addresses that begin with prefix (as "172.20.255." or "fd00:172:20::255:"). It returns
// nil when there is nothing.
func (l *Lab) Traces(ctx context.Context, node, prefix string) error {
	res, err := l.Exec(ctx, node, "sh", "-c", "ip -o link; ip -o addr; ip rule; nft list tables")
	if err != nil {
		return err
	}
	var found []error
	for line := range strings.Lines(res.Stdout) {
		if strings.Contains(line, "fairlead") || strings.Contains(line, " inet "+prefix) || strings.Contains(line, " inet6 "+prefix) {
			found = append(found, fmt.Errorf("left on %s: %s", node, strings.TrimSpace(line)))
		}
	}
	return errors.Join(found...)
}

// Script runs a script of the repository on this machine with a kubectl on its PATH that
// speaks to the lab.
func (l *Lab) Script(ctx context.Context, path string, args ...string) (Result, error) {
	dir, err := os.MkdirTemp("", "fairlead-kubectl-")
	if err != nil {
		return Result{}, fmt.Errorf("make a kubectl for %s: %w", path, err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	wrapper := fmt.Sprintf("#!/bin/sh\nexec '%s' kubectl --state-dir '%s' -- \"$@\"\n", l.bin, l.stateDir)
	err = os.WriteFile(filepath.Join(dir, "kubectl"), []byte(wrapper), 0o700) //nolint:gosec // it must be executable
	if err != nil {
		return Result{}, fmt.Errorf("make a kubectl for %s: %w", path, err)
	}
	argv := append([]string{"PATH=" + dir + ":" + os.Getenv("PATH"), filepath.Join(l.root, path)}, args...)
	return l.command(ctx, nil, nil, "env", argv...)
}
