// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// PreviousRelease is the commit whose programs the skew test runs beside today's: one
// minor version back. Move it when a minor version is released.
const PreviousRelease = "bbdebffcbeadfba3c442ec7607e6f8079cc687dc"

// PreviousTag is the tag of the previous release's images in the lab's registry.
const PreviousTag = "previous"

// Previous writes the source tree of [PreviousRelease] below dir, with overlays in
// dir/previous-controller and dir/previous-node-agent that run its programs, and builds its two images into the lab's registry.
func (l *Lab) Previous(ctx context.Context, dir string) error {
	const fix = "the skew test needs the history of this repository; in a shallow clone run: git fetch --unshallow"
	if _, err := l.command(ctx, nil, nil, "git", "rev-parse", "--verify", "--quiet", PreviousRelease+"^{commit}"); err != nil {
		return fmt.Errorf("commit %s is not here: %s (%w)", PreviousRelease, fix, err)
	}
	archive := filepath.Join(dir, "source.tar")
	if _, err := l.command(ctx, nil, nil, "git", "archive", "--format=tar", "-o", archive, PreviousRelease); err != nil {
		return fmt.Errorf("the previous release's source: %w", err)
	}
	if _, err := l.command(ctx, nil, nil, "tar", "-xf", archive, "-C", dir); err != nil {
		return fmt.Errorf("the previous release's source: %w", err)
	}
	for _, target := range []string{"controller", "node-agent"} {
		name := "fairlead.dev/fairlead-" + target + ":" + PreviousTag
		if _, err := l.lab(ctx, nil, "image", "--target", target, "-t", name, "--source", dir); err != nil {
			return fmt.Errorf("the previous release's image %s: %w", target, err)
		}
	}
	return errors.Join(previousOverlay(dir, "controller"), previousOverlay(dir, "node-agent"))
}

// previousOverlay writes dir/previous-PROGRAM for one program of the source tree at dir: its
// workload with the arguments that the previous release knows, and its configuration. CRDs,
// permissions and policies stay the new ones, as in an upgrade half done.
func previousOverlay(dir, program string) error {
	overlay := filepath.Join(dir, "previous-"+program)
	if err := os.MkdirAll(overlay, 0o750); err != nil {
		return fmt.Errorf("the previous release's overlay: %w", err)
	}
	file := program + ".yaml"
	kustomization := `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [` + file + `]
images: [{name: fairlead.dev/fairlead-` + program + `, newTag: ` + PreviousTag + `}]
`
	manifest, err := os.ReadFile(filepath.Join(dir, "deploy", "kustomize", "base", file)) //nolint:gosec // a fixed name below dir
	if err != nil {
		return fmt.Errorf("the previous release's overlay: %w", err)
	}
	for name, text := range map[string]string{"kustomization.yaml": kustomization, file: string(manifest)} {
		if err := os.WriteFile(filepath.Join(overlay, name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("the previous release's overlay: %w", err)
		}
	}
	return nil
}
