// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Tag marks the files of tests that need ip_vs.
const Tag = "ipvs"

// Suite are the tests of the files that are tagged [Tag].
type Suite struct {
	// Packages as the go command takes them; those without such a file are left out.
	Packages []string
	// Tags that are set besides.
	Tags string
	// Run, if set, selects tests as go test's flag of that name does, in place of all.
	Run string
	// Timeout of all tests together, and of those of a package, which are told in time to say
	// where they hang.
	Timeout time.Duration
	// Output gets what the tests print.
	Output io.Writer
	// Kernel finds the machine's kernel when it is needed.
	Kernel func(ctx context.Context) (Kernel, error)

	// dir is where the go command runs; empty: here.
	dir string
}

// Job is the tests of one package, compiled.
type Job struct {
	Package, Dir, Binary string
	Args, Env            []string
}

// Test compiles the tests here and runs them one package after the other: natively if
// [Probe] finds all that they need, else all in one boot of the machine of [Run]. It says
// which, loudly. It returns whether all passed.
func (s *Suite) Test(ctx context.Context) (passed bool, err error) {
	dir, err := os.MkdirTemp("", "fairlead-vm-tests-")
	if err != nil {
		return false, fmt.Errorf("test: %w", err)
	}
	defer os.RemoveAll(dir)
	began := time.Now()
	jobs, err := s.compile(ctx, dir)
	if err != nil {
		return false, err
	}
	s.say("compiled the tests of %d packages that need ip_vs in %.0f s", len(jobs), time.Since(began).Seconds())
	began = time.Now()
	why := Probe()
	host := Outside
	if why == nil {
		host = "127.0.0.1"
	}
	stop, err := s.startOutside(ctx, dir, jobs, host)
	defer stop()
	if err != nil {
		return false, err
	}
	if why == nil {
		s.say("this machine's kernel has ip_vs: they run NATIVELY, on %s", release())
		if passed, err = RunJobs(ctx, jobs, s.Output); err != nil {
			return false, err
		}
	} else {
		if passed, err = s.emulated(ctx, dir, jobs, why); err != nil {
			return false, err
		}
	}
	s.say("ran them in %.0f s: %s", time.Since(began).Seconds(), map[bool]string{true: "all passed", false: "FAILED"}[passed])
	return passed, nil
}

func (s *Suite) say(format string, args ...any) {
	_, _ = fmt.Fprintf(s.Output, "==> fairlead-vm: "+format+"\n", args...)
}

func release() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "a kernel of unknown version"
	}
	return "Linux " + strings.TrimSpace(string(b))
}

// emulated runs the jobs in the machine, by this very program.
func (s *Suite) emulated(ctx context.Context, dir string, jobs []Job, why error) (bool, error) {
	kernel, err := s.Kernel(ctx)
	if err != nil {
		return false, err
	}
	s.say("this machine's kernel, %s, cannot run them (%s): they run in a SMALL VIRTUAL MACHINE with Linux %s, emulated",
		release(), strings.ReplaceAll(why.Error(), "\n", "; "), filepath.Base(kernel.Modules))
	self, err := os.Executable()
	if err != nil {
		return false, fmt.Errorf("find this program: %w", err)
	}
	b, err := json.Marshal(jobs)
	if err != nil {
		return false, fmt.Errorf("write the list of tests: %w", err)
	}
	list := filepath.Join(dir, "jobs.json")
	if err := os.WriteFile(list, b, 0o600); err != nil {
		return false, fmt.Errorf("write the list of tests: %w", err)
	}
	status, err := Run(ctx, &Options{
		Kernel: kernel, Timeout: s.Timeout, Dir: dir, Env: os.Environ(), Output: s.Output,
		Argv: []string{self, "jobs", list},
	})
	return status == 0, err
}

// ReadJobs reads the list that a machine was given.
func ReadJobs(path string) ([]Job, error) {
	b, err := os.ReadFile(path) //nolint:gosec // our own file
	if err != nil {
		return nil, fmt.Errorf("read the list of tests: %w", err)
	}
	var jobs []Job
	if err := json.Unmarshal(b, &jobs); err != nil {
		return nil, fmt.Errorf("read the list of tests: %w", err)
	}
	return jobs, nil
}

// RunJobs runs them here, all of them whatever fails, and prints a line for each at the end
// as go test does.
func RunJobs(ctx context.Context, jobs []Job, output io.Writer) (passed bool, err error) {
	var lines []string
	passed = true
	for _, j := range jobs {
		_, _ = fmt.Fprintln(output, "==> fairlead-vm: testing", j.Package)
		began := time.Now()
		cmd := exec.CommandContext(ctx, j.Binary, j.Args...) //nolint:gosec // compiled from this repository
		cmd.Dir, cmd.Stdout, cmd.Stderr = j.Dir, output, output
		cmd.Env = append(os.Environ(), j.Env...)
		cmd.WaitDelay = time.Second
		err := cmd.Run()
		if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
			return false, fmt.Errorf("run the tests of %s: %w", j.Package, err)
		}
		line := fmt.Sprintf("ok  \t%s\t%.3fs", j.Package, time.Since(began).Seconds())
		if err != nil {
			passed = false
			line = fmt.Sprintf("FAIL\t%s\t%.3fs (%s)", j.Package, time.Since(began).Seconds(), err)
		}
		lines = append(lines, line)
	}
	_, _ = fmt.Fprintln(output, strings.Join(lines, "\n"))
	return passed, nil
}

// listed is what [Suite.list] reads of go list.
type listed struct {
	ImportPath, Dir           string
	TestGoFiles, XTestGoFiles []string
}

// compile makes one program per package that has tagged files, and lets it run only their
// tests: the package's other tests run without ip_vs as well.
func (s *Suite) compile(ctx context.Context, dir string) ([]Job, error) {
	with, err := s.list(ctx, s.Tags+","+Tag)
	if err != nil {
		return nil, err
	}
	without, err := s.list(ctx, s.Tags)
	if err != nil {
		return nil, err
	}
	common := map[string]bool{}
	for _, p := range without {
		for _, f := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			common[filepath.Join(p.Dir, f)] = true
		}
	}
	var jobs []Job
	for _, p := range with {
		var tests []string
		for _, f := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			if path := filepath.Join(p.Dir, f); !common[path] {
				names, err := testsIn(path)
				if err != nil {
					return nil, err
				}
				tests = append(tests, names...)
			}
		}
		if len(tests) == 0 {
			continue
		}
		pattern := "^(" + strings.Join(tests, "|") + ")$"
		if s.Run != "" {
			pattern = s.Run
		}
		binary := filepath.Join(dir, fmt.Sprintf("%02d-%s.test", len(jobs), filepath.Base(p.Dir)))
		cmd := exec.CommandContext(ctx, "go", "test", "-c", "-trimpath", "-tags", s.Tags+","+Tag, "-o", binary, p.ImportPath) //nolint:gosec // arguments are the Makefile's
		cmd.Dir, cmd.Env = s.dir, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("compile the tests of %s: %w\n%s", p.ImportPath, err, out)
		}
		jobs = append(jobs, Job{
			Package: p.ImportPath, Dir: p.Dir, Binary: binary,
			// Tests that wait for silence cost nothing beside each other.
			Args: []string{"-test.v", "-test.parallel", "8", "-test.run", pattern, "-test.timeout", (s.Timeout - s.Timeout/10).String()},
		})
	}
	if len(jobs) == 0 {
		return nil, fmt.Errorf("no test file is tagged %s in %s", Tag, strings.Join(s.Packages, " "))
	}
	return jobs, nil
}

func (s *Suite) list(ctx context.Context, tags string) ([]listed, error) {
	args := append([]string{"list", "-tags", tags, "-json=ImportPath,Dir,TestGoFiles,XTestGoFiles"}, s.Packages...)
	cmd := exec.CommandContext(ctx, "go", args...) //nolint:gosec // arguments are the Makefile's
	cmd.Dir = s.dir
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list the packages: %w: %s", err, errOut.Bytes())
	}
	var all []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("list the packages: %w", err)
		}
		all = append(all, p)
	}
}

// testsIn names the test functions of one file.
func testsIn(path string) ([]string, error) {
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, fmt.Errorf("look for tests: %w", err)
	}
	var names []string
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") && fn.Name.Name != "TestMain" {
			names = append(names, fn.Name.Name)
		}
	}
	return names, nil
}
