// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// OutDir is the directory that a build stage's commands write to. On this
// machine it stands for a temporary directory.
const OutDir = "/out"

// Builder runs a Dockerfile's stages. Stages from scratch become images;
// commands of every other stage run on this machine, in the source tree, with
// OutDir replaced by a temporary directory. A stage runs once per Builder.
// Close removes what the stages wrote.
type Builder struct {
	// Context is the source tree that COPY . . stands for.
	Context string
	// Out gets the output of commands.
	Out io.Writer

	done map[string]string
}

// Close removes the stages' output.
func (b *Builder) Close() error {
	for _, dir := range b.done {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("image: %w", err)
		}
	}
	return nil
}

func find(stages []Stage, name string) *Stage {
	for i := range stages {
		if stages[i].Name == name {
			return &stages[i]
		}
	}
	return nil
}

// Build makes the image of a stage.
func (b *Builder) Build(ctx context.Context, stages []Stage, target string) (*Image, error) {
	s := find(stages, target)
	if s == nil {
		return nil, fmt.Errorf("dockerfile: no stage %q", target)
	}
	if s.Base != "scratch" {
		return nil, fmt.Errorf("dockerfile: stage %s starts from %s; only a stage from scratch can be built without a registry", target, s.Base)
	}
	sc := newScope(s)
	img := &Image{Config: Config{WorkingDir: "/"}}
	var files []File
	for i := range s.Instructions {
		in := &s.Instructions[i]
		if in.Op == "COPY" {
			more, err := b.copyFrom(ctx, stages, in, sc)
			if err != nil {
				return nil, err
			}
			files = append(files, more...)
			continue
		}
		if err := configure(&img.Config, in, sc); err != nil {
			return nil, err
		}
	}
	layer, err := Layer(files)
	if err != nil {
		return nil, err
	}
	img.Layers = [][]byte{layer}
	return img, nil
}

// configure applies an instruction that only changes the configuration.
func configure(c *Config, in *Instruction, sc *scope) error {
	var err error
	switch in.Op {
	case "ARG":
		sc.arg(in.Args)
	case "USER":
		c.User = sc.expand(in.Args)
	case "WORKDIR":
		c.WorkingDir = path.Join(c.WorkingDir, sc.expand(in.Args))
	case "ENTRYPOINT":
		c.Entrypoint, err = execForm(in)
	case "ENV":
		if err = setEnv(in, sc); err == nil {
			c.Env = nil
			for _, k := range slices.Sorted(maps.Keys(sc.env)) {
				c.Env = append(c.Env, k+"="+sc.env[k])
			}
		}
	case "LABEL":
		var labels map[string]string
		if labels, err = pairs(in); err == nil && c.Labels == nil {
			c.Labels = map[string]string{}
		}
		for k, v := range labels {
			c.Labels[k] = sc.expand(v)
		}
	default:
		err = in.errorf("cannot run in a stage from scratch")
	}
	return err
}

func setEnv(in *Instruction, sc *scope) error {
	kv, err := pairs(in)
	if err != nil {
		return err
	}
	for k, v := range kv {
		sc.env[k] = sc.expand(v)
	}
	return nil
}

func (b *Builder) copyFrom(ctx context.Context, stages []Stage, in *Instruction, sc *scope) ([]File, error) {
	f := strings.Fields(sc.expand(in.Args))
	if len(f) != 3 || !strings.HasPrefix(f[0], "--from=") {
		return nil, in.errorf("want COPY --from=STAGE SOURCE TARGET in a stage from scratch")
	}
	s := find(stages, strings.TrimPrefix(f[0], "--from="))
	if s == nil {
		return nil, in.errorf("no stage %q", f[0])
	}
	rel, err := filepath.Rel(OutDir, f[1])
	if err != nil || !filepath.IsLocal(rel) {
		return nil, in.errorf("the source must be below %s", OutDir)
	}
	dir, err := b.run(ctx, s)
	if err != nil {
		return nil, err
	}
	source, target := filepath.Join(dir, rel), f[2]
	info, err := os.Stat(source)
	if err != nil {
		return nil, in.errorf("%w", err)
	}
	if strings.HasSuffix(target, "/") && !info.IsDir() {
		target = path.Join(target, path.Base(f[1]))
	}
	if !info.IsDir() {
		return []File{{Path: target, Source: source, Mode: info.Mode().Perm() | 0o444}}, nil
	}
	files, err := Tree(source, target)
	for i := range files {
		// The temporary directory is private; what is in an image is not.
		if files[i].Dir {
			files[i].Mode |= 0o555
		}
		files[i].Mode |= fs.FileMode(0o444)
	}
	return files, err
}

// run executes a build stage on this machine and returns the directory that
// stands for OutDir.
func (b *Builder) run(ctx context.Context, s *Stage) (string, error) {
	if dir, ok := b.done[s.Name]; ok {
		return dir, nil
	}
	sc := newScope(s)
	dir, err := os.MkdirTemp("", "fairlead-image-")
	if err != nil {
		return "", fmt.Errorf("image: %w", err)
	}
	if b.done == nil {
		b.done = map[string]string{}
	}
	b.done[s.Name] = dir
	for i := range s.Instructions {
		if err := b.step(ctx, &s.Instructions[i], sc, dir); err != nil {
			return "", err
		}
	}
	return dir, nil
}

func (b *Builder) step(ctx context.Context, in *Instruction, sc *scope, dir string) error {
	switch in.Op {
	case "ARG":
		sc.arg(in.Args)
		return nil
	case "ENV":
		return setEnv(in, sc)
	case "WORKDIR", "LABEL", "USER":
		// The working directory is the source tree, which COPY . . puts there.
		return nil
	case "COPY":
		if f := strings.Fields(in.Args); len(f) != 2 || path.Clean(f[0]) != path.Clean(f[1]) || !filepath.IsLocal(f[0]) {
			return in.errorf("a build stage can copy the source tree only as it is: COPY . .")
		}
		return nil
	case "RUN":
		cmd := exec.CommandContext(ctx, "sh", "-c", relocate(in.Args, dir)) //nolint:gosec // that is what RUN means
		cmd.Dir, cmd.Stdout, cmd.Env = b.Context, b.Out, append(os.Environ(), "GOWORK=off")
		// A compiler behind the shell must not outlive an interrupted build.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
		var errOut strings.Builder
		cmd.Stderr = io.MultiWriter(b.Out, &errOut)
		for _, vars := range []map[string]string{sc.args, sc.env} {
			for k, v := range vars {
				cmd.Env = append(cmd.Env, k+"="+v)
			}
		}
		if err := cmd.Run(); err != nil {
			return in.errorf("%w\n%s", err, strings.TrimSpace(errOut.String()))
		}
		return nil
	default:
		return in.errorf("cannot run in a build stage")
	}
}

// relocate replaces OutDir where it stands as a whole first path element.
func relocate(command, dir string) string {
	re := regexp.MustCompile(`(^|[\s="'])` + regexp.QuoteMeta(OutDir) + `($|[/\s"'])`)
	return re.ReplaceAllString(command, "${1}"+strings.ReplaceAll(dir, "$", "$$")+"${2}")
}
