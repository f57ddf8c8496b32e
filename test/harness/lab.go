// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// module is the first line of the go.mod that marks the repository's root.
const module = "module github.com/fairlead-lb/fairlead"

// Options say which lab to drive.
type Options struct {
	// Root of the repository; empty means the first directory above the working
	// directory that holds the project's go.mod.
	Root string
	// StateDir of the lab, one per lab.
	StateDir string
	// Progress receives the output of the slow commands (builds, up, down).
	Progress io.Writer
}

// Lab is one lab cluster, driven through bin/fairlead-lab. It holds no state of the
// cluster, so that methods may be called from several goroutines.
type Lab struct {
	root     string
	bin      string
	probe    string
	stateDir string
	progress io.Writer
	reader   *http.Client
}

// Result is what one command printed.
type Result struct {
	Stdout  string
	Stderr  string
	Elapsed time.Duration
}

// CommandError is a command that ended with a status other than zero.
type CommandError struct {
	Command string
	Code    int
	Output  string
}

// Error shows the command, its status and the last of what it said.
func (e *CommandError) Error() string {
	return fmt.Sprintf("%s: exit status %d: %s", e.Command, e.Code, lastLines(e.Output, 6))
}

// Open prepares to drive the lab at o.StateDir. It starts nothing; see [Lab.Build] and
// [Lab.Up].
func Open(o Options) (*Lab, error) {
	root := o.Root
	if root == "" {
		found, err := findRoot()
		if err != nil {
			return nil, err
		}
		root = found
	}
	if o.StateDir == "" {
		return nil, errors.New("open lab: a state directory is needed")
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	l := &Lab{
		root:     root,
		bin:      filepath.Join(root, "bin", "fairlead-lab"),
		probe:    filepath.Join(root, "bin", "fairlead-probe"),
		stateDir: o.StateDir,
		progress: o.Progress,
	}
	l.reader = newReader(l.socket())
	return l, nil
}

// Root is the repository's root directory.
func (l *Lab) Root() string { return l.root }

// StateDir is the lab's state directory.
func (l *Lab) StateDir() string { return l.stateDir }

// Build compiles the lab's own two programs into bin/. Cluster components are built by
// up, into a cache outside the work tree.
func (l *Lab) Build(ctx context.Context) error {
	for _, t := range [][2]string{{l.bin, "./test/lab/cmd/fairlead-lab"}, {l.probe, "./test/lab/probe"}} {
		_, err := l.command(ctx, nil, l.progress, "go", "build", "-o", t[0], t[1])
		if err != nil {
			return fmt.Errorf("build the lab: %w", err)
		}
	}
	return nil
}

// lab runs one fairlead-lab command quietly: name, then --state-dir, then args.
func (l *Lab) lab(ctx context.Context, stdin io.Reader, name string, args ...string) (Result, error) {
	return l.command(ctx, stdin, nil, l.bin, append([]string{name, "--state-dir", l.stateDir}, args...)...)
}

// loud is lab with the output copied to the progress writer as it comes.
func (l *Lab) loud(ctx context.Context, name string, args ...string) (Result, error) {
	return l.command(ctx, nil, l.progress, l.bin, append([]string{name, "--state-dir", l.stateDir}, args...)...)
}

// command runs one program in the repository's root and waits for it. When ctx ends the
// program gets SIGTERM, and SIGKILL ten seconds later.
func (l *Lab) command(ctx context.Context, stdin io.Reader, tee io.Writer, name string, args ...string) (Result, error) {
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // running the lab's commands is this package's purpose
	cmd.Dir = l.root
	cmd.Stdin = stdin
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if tee != nil {
		cmd.Stdout, cmd.Stderr = io.MultiWriter(&stdout, tee), io.MultiWriter(&stderr, tee)
	}
	start := time.Now()
	err := cmd.Run()
	res := Result{Stdout: stdout.String(), Stderr: stderr.String(), Elapsed: time.Since(start)}
	if err == nil {
		return res, nil
	}
	shown := strings.Join(append([]string{filepath.Base(name)}, args...), " ")
	if ctx.Err() != nil {
		return res, fmt.Errorf("%s: %w", shown, ctx.Err())
	}
	exit := &exec.ExitError{}
	if errors.As(err, &exit) {
		return res, &CommandError{Command: shown, Code: exit.ExitCode(), Output: res.Stdout + res.Stderr}
	}
	return res, fmt.Errorf("run %s: %w", shown, err)
}

// Root is the repository's root directory: the first one above the working directory that
// holds the project's go.mod.
func Root() (string, error) { return findRoot() }

// findRoot walks up from the working directory to the project's go.mod.
func findRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for d := dir; ; d = filepath.Dir(d) {
		b, err := os.ReadFile(filepath.Join(d, "go.mod")) //nolint:gosec // the path is a fixed name above the working directory
		if err == nil && strings.HasPrefix(string(b), module+"\n") {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("find the repository: no go.mod with %q above %s", module, dir)
		}
	}
}

// lastLines keeps an error message readable.
func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
