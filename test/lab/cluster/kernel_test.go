// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package cluster

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

func TestRulesetIsAcceptedByNft(t *testing.T) {
	t.Parallel()
	p := planOf(t, MaxNodes)
	for _, from := range []From{FromAPI, FromPeers, FromAll} {
		cmd := exec.CommandContext(t.Context(), "nft", "-f", "-")
		cmd.Stdin = strings.NewReader(ruleset(p, []Cut{{Nodes: []string{"worker", "worker2"}, From: from}}))
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", from, err, out)
		}
	}
}
