// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
)

// pluginProgram is kubectl's plugin, as kubectl looks for it.
const pluginProgram = "kubectl-fairlead"

// BuildPlugin compiles the kubectl plugin into bin/, with the flags of the images' programs
// so that what they have in common is compiled once.
func (l *Lab) BuildPlugin(ctx context.Context) error {
	_, err := l.command(ctx, nil, l.progress, "env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-tags", BuildTags, "-ldflags=-s -w", "-o", l.plugin(), "./cmd/"+pluginProgram)
	if err != nil {
		return fmt.Errorf("build the kubectl plugin: %w", err)
	}
	return nil
}

func (l *Lab) plugin() string { return filepath.Join(l.root, "bin", pluginProgram) }

// Plugin runs the kubectl plugin where the API server answers, on the control plane.
// [Lab.BuildPlugin] comes first.
func (l *Lab) Plugin(ctx context.Context, stdin string, args ...string) (Result, error) {
	kubeconfig, err := l.lab(ctx, nil, "kubeconfig")
	if err != nil {
		return Result{}, err
	}
	argv := []string{FairleadNodes()[0], "--", "env", "KUBECONFIG=" + strings.TrimSpace(kubeconfig.Stdout), l.plugin()}
	return l.lab(ctx, strings.NewReader(stdin), "exec", append(argv, args...)...)
}
