// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/fairlead-lb/fairlead/test/lab/image"
)

// Image names of the lab. All but the first are those of the tutorial.
const (
	PauseImage      = "fairlead.dev/lab/pause:1"
	whoamiImage     = "traefik/whoami"
	netshootImage   = "nicolaka/netshoot"
	echoserverImage = "k8s.gcr.io/echoserver:1.5"
)

// tools are the programs of the netshoot image, as far as this machine has
// them.
func tools() []string {
	return []string{
		"sh", "bash", "zsh", "curl", "wget", "ip", "ss", "ping", "arping", "tcpdump", "ethtool", "nft", "iptables", "conntrack",
		"ipvsadm", "dig", "nc", "cat", "ls", "grep", "egrep", "sed", "awk", "sort", "uniq", "head", "tail", "wc", "cut", "tr", "seq",
		"date", "sleep", "hostname", "env", "id", "ps", "kill", "true", "false", "echo", "test", "timeout", "mkdir", "rm", "cp", "mv",
	}
}

// TestImages builds the lab's own images from source and stores them. workDir
// is scratch space.
func TestImages(ctx context.Context, store *image.Store, source, workDir string) error {
	if err := os.MkdirAll(workDir, 0o750); err != nil {
		return fmt.Errorf("images: %w", err)
	}
	defer os.RemoveAll(workDir)
	program := filepath.Join(workDir, "whoami")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", program, "./test/lab/whoami") //nolint:gosec // fixed arguments
	cmd.Dir, cmd.Env = source, append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build whoami: %w: %s", err, out)
	}
	layer, err := image.Layer([]image.File{{Path: "/whoami", Source: program}})
	if err != nil {
		return err
	}
	entrypoints := map[string][]string{
		PauseImage: {"/whoami", "-pause"}, whoamiImage: {"/whoami"}, echoserverImage: {"/whoami", "-echo"},
	}
	for ref, entrypoint := range entrypoints {
		img := &image.Image{Config: image.Config{Entrypoint: entrypoint, WorkingDir: "/"}, Layers: [][]byte{layer}}
		if err := store.Put(ref, img); err != nil {
			return err
		}
	}
	files, err := image.ToolFiles(ctx, tools())
	if err != nil {
		return err
	}
	if layer, err = image.Layer(files); err != nil {
		return err
	}
	return store.Put(netshootImage, &image.Image{
		Config: image.Config{Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, Cmd: []string{"/bin/sh"}, WorkingDir: "/"},
		Layers: [][]byte{layer},
	})
}

// FairleadImages builds Fairlead's own images as the lab's manifests name them.
func FairleadImages(ctx context.Context, store *image.Store, source string) error {
	return build(ctx, source, io.Discard, []string{"controller", "node-agent"}, func(target string, img *image.Image) error {
		return store.Put("fairlead.dev/fairlead-"+target+":dev", img)
	})
}

// BuildTarget builds one stage of the source tree's Dockerfile on this machine.
// Output of the stage's commands goes to out.
func BuildTarget(ctx context.Context, source, target string, out io.Writer) (*image.Image, error) {
	var built *image.Image
	err := build(ctx, source, out, []string{target}, func(_ string, img *image.Image) error {
		built = img
		return nil
	})
	return built, err
}

func build(ctx context.Context, source string, out io.Writer, targets []string, use func(string, *image.Image) error) (err error) {
	f, err := os.Open(filepath.Join(source, "Dockerfile")) //nolint:gosec // the user's source tree
	if err != nil {
		return fmt.Errorf("images: %w", err)
	}
	defer f.Close()
	stages, err := image.ParseDockerfile(f)
	if err != nil {
		return err
	}
	b := &image.Builder{Context: source, Out: out}
	defer func() { err = errors.Join(err, b.Close()) }()
	for _, t := range targets {
		img, err := b.Build(ctx, stages, t)
		if err != nil {
			return err
		}
		if err := use(t, img); err != nil {
			return err
		}
	}
	return nil
}
