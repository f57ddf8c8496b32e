// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/fairlead-lb/fairlead/test/dataplane"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/plane"
	"github.com/fairlead-lb/fairlead/test/lab/artifacts"
	"github.com/fairlead-lb/fairlead/test/vm"
)

// Config of a measurement.
type Config struct {
	// Root of the repository; Dir gets what is compiled, and must exist.
	Root, Dir string
	// Part to measure, if not both.
	Part string
	// Services each make two virtual servers with three real ones.
	Services int
	// Beside are the numbers of Services that kube-proxy is given too; none: what is
	// usual on the kernel that is measured.
	Beside []int
	// Round is how long clients ask at a time.
	Round time.Duration
	// Plane is the file that describes the control plane of the second part, PlaneHost
	// where its loopback is.
	Plane, PlaneHost string
	Progress         io.Writer
}

// Result of a measurement.
type Result struct {
	Benchmark string          `json:"benchmark"`
	Date      string          `json:"date"`
	Machine   harness.Machine `json:"machine"`
	// Kernel that was measured; Emulated says that it ran in the virtual machine.
	Kernel   string `json:"kernel"`
	Emulated bool   `json:"emulated"`

	Programming []*Programming `json:"programming"`
	Paths       []Path         `json:"paths"`
	// Failure says why the rest is missing.
	Failure string `json:"failure,omitempty"`
}

// resultMark begins the line in which what ran inside hands its result to who started it.
const resultMark = "BENCH-RESULT "

// The parts of a measurement that can be asked for alone.
const (
	PartProgramming = "programming"
	PartTraffic     = "traffic"
)

// The stages of a measurement in which this program runs itself.
const (
	// StageKernel is the first part, on the kernel that is measured.
	StageKernel = "kernel"
	// StageProxy is of that what runs in a network namespace.
	StageProxy = "kube-proxy"
	// StageTraffic is the second part.
	StageTraffic = "traffic"
)

const machineTimeout = time.Hour

// Measure compiles what is needed and measures on this machine's kernel, or on the virtual
// machine's where this one has no ip_vs. With an error may come what was measured before it.
func Measure(ctx context.Context, c Config, m harness.Machine) (*Result, error) {
	out := &Result{Benchmark: "ipvs", Date: time.Now().UTC().Format(time.RFC3339), Machine: m}
	if err := c.compile(ctx); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	run, host, err := c.runner(ctx, out)
	if err != nil {
		return nil, err
	}
	if len(c.Beside) == 0 {
		c.Beside = usual(out.Emulated, c.Services)
	}
	argv := []string{
		self, "-bench", "ipvs", "-state-dir", c.Dir, "-services", strconv.Itoa(c.Services), "-sizes", joinSizes(c.Beside), "-round", c.Round.String(),
	}
	if c.Part != PartTraffic {
		if err := run(append(argv, "-stage", StageKernel), out); err != nil {
			return nil, err
		}
	}
	if c.Part == PartProgramming {
		return out, nil
	}
	stop, file, err := c.controlPlane(ctx)
	if err == nil {
		err = run(append(argv, "-stage", StageTraffic, "-plane", file, "-plane-host", host), &out.Paths)
	}
	if err = errors.Join(err, stop()); err != nil {
		out.Failure = "what clients get: " + err.Error()
	}
	return out, err
}

// usual numbers of Services for the comparison. kube-proxy in mode ipvs starts a program for
// each element of a set, five times per Service: on an emulated processor it takes about a
// second for each Service, and would take hours for all.
func usual(emulated bool, services int) []int {
	if emulated {
		return []int{10, 20, 40}
	}
	return []int{100, 1000, services}
}

func joinSizes(sizes []int) string {
	texts := make([]string, len(sizes))
	for i, n := range sizes {
		texts[i] = strconv.Itoa(n)
	}
	return strings.Join(texts, ",")
}

// runner returns what runs this program on the kernel that is measured and reads its
// result, and how that reaches this machine's loopback.
func (c *Config) runner(ctx context.Context, out *Result) (run func(argv []string, into any) error, host string, err error) {
	why := vm.Probe()
	if why == nil {
		return func(argv []string, into any) error {
			return stage(exec.CommandContext(ctx, argv[0], argv[1:]...), c.Progress, into) //nolint:gosec // ourselves
		}, "127.0.0.1", nil
	}
	_, _ = fmt.Fprintf(c.Progress, "this kernel cannot be measured (%s): a small virtual machine is, emulated\n", strings.ReplaceAll(why.Error(), "\n", "; "))
	out.Emulated = true
	dir, err := vm.DefaultKernelDir()
	if err != nil {
		return nil, "", err //nolint:wrapcheck // says what failed
	}
	kernel, err := vm.FindKernel(ctx, dir)
	if err != nil {
		return nil, "", err //nolint:wrapcheck // says what failed
	}
	return func(argv []string, into any) error {
		var text bytes.Buffer
		status, err := vm.Run(ctx, &vm.Options{
			Self: filepath.Join(c.Dir, "fairlead-vm"), Kernel: kernel, Timeout: machineTimeout, Dir: c.Root, Env: os.Environ(),
			Output: io.MultiWriter(&text, c.Progress), Argv: argv,
		})
		if err != nil {
			return err //nolint:wrapcheck // says what failed
		}
		if status != 0 {
			return fmt.Errorf("the measurement ended with status %d", status)
		}
		return readResult(text.String(), into)
	}, vm.Outside, nil
}

// controlPlane runs one with Fairlead's controller on loopback and returns the file that
// describes it.
func (c *Config) controlPlane(ctx context.Context) (stop func() error, file string, err error) {
	dir := filepath.Join(c.Dir, "plane")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return func() error { return nil }, "", fmt.Errorf("make a directory: %w", err)
	}
	p, err := plane.Start(ctx, plane.Options{
		Root: c.Root, Dir: dir, Alone: true, Progress: c.Progress, ControllerProgram: filepath.Join(c.Root, "bin", harness.ControllerProgram),
	})
	if err != nil {
		return p.Stop, "", err //nolint:wrapcheck // says what failed
	}
	if _, err := p.StartController(ctx, plane.ControllerOptions{Name: "controller"}); err != nil {
		return p.Stop, "", err //nolint:wrapcheck // says what failed
	}
	programs, err := dataplane.Programs(ctx, c.Progress)
	if err != nil {
		return p.Stop, "", err //nolint:wrapcheck // says what failed
	}
	file = filepath.Join(c.Dir, "plane.json")
	return p.Stop, file, p.Describe(file, programs)
}

// compile makes all programs: nothing is compiled on an emulated processor.
func (c *Config) compile(ctx context.Context) error {
	for _, args := range [][]string{
		{"build", "-trimpath", "-tags", "grpcnotrace", "-o", filepath.Join(c.Root, "bin") + "/", "./cmd/" + harness.ControllerProgram, "./cmd/" + harness.AgentProgram},
		{"build", "-trimpath", "-o", filepath.Join(c.Dir, "fairlead-vm"), "./test/vm/cmd/fairlead-vm"},
		{"test", "-c", "-trimpath", "-tags", "kernel,ipvs,grpcnotrace", "-o", c.agentBenchmark(), "./nodeagent"},
	} {
		cmd := exec.CommandContext(ctx, "go", args...) //nolint:gosec // constants and our own directory
		cmd.Dir, cmd.Env = c.Root, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	_, err := kubeProxy(ctx, c.Progress)
	return err
}

func (c *Config) agentBenchmark() string { return filepath.Join(c.Dir, "nodeagent.test") }

// kubeProxy builds it, or finds it in the cache.
func kubeProxy(ctx context.Context, progress io.Writer) (string, error) {
	b := artifacts.Builder{Log: artifacts.WriterLogger(progress)}
	var err error
	if b.Cache, err = artifacts.DefaultCache(); err != nil {
		return "", err //nolint:wrapcheck // says what failed
	}
	for _, t := range artifacts.Targets() {
		if t.Name == "kube-proxy" {
			tools, err := b.Ensure(ctx, []artifacts.Target{t})
			return tools[t.Name], err //nolint:wrapcheck // says what failed
		}
	}
	return "", errors.New("no kube-proxy among the artefacts")
}

// Stage runs one of the stages and prints its result for who started it.
func Stage(ctx context.Context, name string, c Config) error {
	var result any
	var err error
	switch name {
	case StageKernel:
		result, err = c.onKernel(ctx)
	case StageProxy:
		var program string
		if program, err = kubeProxy(ctx, c.Progress); err == nil {
			result, err = MeasureProxy(ctx, program, c.Dir, c.Services)
		}
	case StageTraffic:
		result, err = c.traffic(ctx)
	default:
		err = fmt.Errorf("no stage %q", name)
	}
	if err != nil {
		return err
	}
	b, err := json.Marshal(result)
	if err != nil {
		return fmt.Errorf("hand on the result: %w", err)
	}
	_, err = fmt.Fprintln(c.Progress, resultMark+string(b))
	return err //nolint:wrapcheck // says what failed
}

// firstPart is what onKernel hands on.
type firstPart struct {
	Kernel      string         `json:"kernel"`
	Programming []*Programming `json:"programming"`
}

// onKernel measures the first part: each number of Services with both programs, one after
// the other, and all of them with Fairlead.
func (c *Config) onKernel(ctx context.Context) (*firstPart, error) {
	out := &firstPart{}
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return nil, fmt.Errorf("find the kernel's version: %w", err)
	}
	out.Kernel = strings.TrimSpace(string(b))
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	// What the kernel loads for the first of them is nobody's cost. Of so few each one changes.
	if _, err := c.both(ctx, self, changesOfProxy+1); err != nil {
		return nil, err
	}
	for _, n := range c.Beside {
		both, err := c.both(ctx, self, n)
		if err != nil {
			return nil, err
		}
		out.Programming = append(out.Programming, both...)
	}
	if !slices.Contains(c.Beside, c.Services) {
		ours, err := MeasureFairlead(ctx, c.agentBenchmark(), c.Services, c.Progress)
		if err != nil {
			return nil, err
		}
		out.Programming = append(out.Programming, ours)
	}
	return out, nil
}

// both measures Fairlead and kube-proxy with as many Services.
func (c *Config) both(ctx context.Context, self string, services int) ([]*Programming, error) {
	ours, err := MeasureFairlead(ctx, c.agentBenchmark(), services, c.Progress)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, "-bench", "ipvs", "-stage", StageProxy, "-state-dir", c.Dir, "-services", strconv.Itoa(services)) //nolint:gosec // ourselves
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	theirs := &Programming{}
	if err := stage(cmd, c.Progress, theirs); err != nil {
		showLogs(c.Dir, c.Progress)
		return nil, err
	}
	return []*Programming{ours, theirs}, nil
}

func (c *Config) traffic(ctx context.Context) ([]Path, error) {
	dir, err := os.MkdirTemp("", "fairlead-bench-world-")
	if err != nil {
		return nil, fmt.Errorf("make a directory: %w", err)
	}
	defer os.RemoveAll(dir)
	o := dataplane.Options{Root: c.Root, Outside: c.Plane, Host: c.PlaneHost, Dir: dir, Progress: c.Progress}
	return MeasureTraffic(ctx, o, c.Round)
}

// stage runs this program and reads its result.
func stage(cmd *exec.Cmd, progress io.Writer, into any) error {
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&text, progress), progress
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("a stage of the measurement: %w", err)
	}
	return readResult(text.String(), into)
}

func readResult(text string, into any) error {
	for line := range strings.Lines(text) {
		if b, found := strings.CutPrefix(line, resultMark); found {
			if err := json.Unmarshal([]byte(b), into); err != nil {
				return fmt.Errorf("read the result: %w", err)
			}
			text = ""
		}
	}
	if text != "" {
		return errors.New("the measurement left no result")
	}
	return nil
}
