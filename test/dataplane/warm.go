// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// warm has the machine's file system take copies of the programs that kube-proxy starts by
// the hundred, and of their libraries: each start asks the machine outside otherwise, which
// doubles its cost. A file gets its copy when it changes, here by its times.
func warm(ctx context.Context) error {
	files := map[string]bool{}
	for _, name := range []string{"nft", "iptables", "ip6tables", "iptables-save", "iptables-restore", "ipset", "ipvsadm", "ip", "modprobe"} {
		program, err := exec.LookPath(name)
		if err != nil {
			return fmt.Errorf("warm up: %w", err)
		}
		files[program] = true
		out, err := exec.CommandContext(ctx, "ldd", program).Output() //nolint:gosec // of the list above
		if err != nil {
			continue // linked statically
		}
		for field := range strings.FieldsSeq(string(out)) {
			if strings.HasPrefix(field, "/") {
				files[field] = true
			}
		}
	}
	now := time.Now()
	for name := range files {
		path, err := filepath.EvalSymlinks(name)
		if err != nil {
			return fmt.Errorf("warm up: %w", err)
		}
		if err := os.Chtimes(path, now, time.Time{}); err != nil {
			return fmt.Errorf("warm up: %w", err)
		}
	}
	return nil
}
