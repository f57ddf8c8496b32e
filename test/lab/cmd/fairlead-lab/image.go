// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
	"github.com/fairlead-lb/fairlead/test/lab/image"
)

// buildImage builds one target of the Dockerfile, into an archive or into a
// lab's registry.
func buildImage(ctx context.Context, c *call) error {
	target := c.flags.String("target", "", "")
	name := c.flags.String("t", "", "")
	out := c.flags.String("o", "", "")
	source := c.flags.String("source", "", "")
	if _, err := c.args(0, 0); err != nil {
		return err
	}
	if *target == "" || *name == "" {
		return usageError("image: --target and -t are needed")
	}
	if _, err := image.ParseName(*name); err != nil {
		return usageError("image: %v", err)
	}
	root, err := sourceRoot(*source)
	if err != nil {
		return err
	}
	img, err := cluster.BuildTarget(ctx, root, *target, os.Stdout)
	if err != nil {
		return err
	}
	if *out != "" {
		return saveImage(img, *name, *out)
	}
	lab, err := c.open()
	if err != nil {
		return err
	}
	if _, err := lab.Kubeconfig(); err != nil {
		return fmt.Errorf("%w, or write an archive with -o", err)
	}
	if err := lab.Store().Put(*name, img); err != nil {
		return err
	}
	fmt.Println("built", *name, "into the lab's registry")
	return nil
}

func saveImage(img *image.Image, name, path string) error {
	f, err := os.Create(path) //nolint:gosec // the user's choice
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	if err := img.Save(f, name); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("image: %w", err)
	}
	fmt.Println("built", name, "into", path)
	return nil
}
