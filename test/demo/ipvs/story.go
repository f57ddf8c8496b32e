// SPDX-License-Identifier: Apache-2.0

// Package ipvs tells the part of the demo that needs a kernel with ip_vs: the tutorial's
// IPVS section, with Fairlead's data plane beside a real kube-proxy. Nodes and pods are
// network namespaces, the world of package dataplane; there is no kubelet.
//
// It owns the story and its expectations. Command demo calls it, on this machine where its
// kernel has ip_vs and in the small machine of package vm where not.
package ipvs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/test/dataplane"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

// Programs below the repository's bin directory that the story runs, besides those of the
// world.
const (
	WhoamiProgram = "fairlead-whoami"
	ProbeProgram  = "fairlead-probe"
)

// patience bounds each wait: the machine may be an emulated one.
const patience = 90 * time.Second

// Options of a run.
type Options struct {
	// Root of the repository; bin/ below it holds the programs.
	Root string
	// Dir is an empty directory for everything that is written.
	Dir string
	// Outside is the file in which a control plane is described that runs already, Host the
	// address of its loopback from here.
	Outside, Host string
	// Out gets the transcript.
	Out io.Writer
}

// story is one run.
type story struct {
	root string
	// tool is kubectl with what leads it to the API server.
	tool []string
	w    *dataplane.World
	t    *harness.Transcript
	// pods are the web servers, in the order of their names, and servers their processes.
	pods    []*dataplane.Pod
	servers []*exec.Cmd
	// vip of the Service, and the node that announces it.
	vip   netip.Addr
	owner *rig.Node
}

// Run tells the story and returns an error if a step did not hold.
func Run(ctx context.Context, opts Options) (err error) {
	s := &story{root: opts.Root, t: harness.NewTranscript(opts.Out, time.Now())}
	s.t.Heading("IPVS on %s", kernel())
	up := s.t.Step(ctx, "Three nodes with a real kube-proxy in nftables mode, Fairlead's controller and agents", func(ctx context.Context) (harness.Observation, error) {
		o := harness.Observation{Expected: "three agents see each other"}
		var err error
		s.w, err = dataplane.Start(ctx, dataplane.Options{Root: opts.Root, Dir: opts.Dir, Outside: opts.Outside, Host: opts.Host, Progress: opts.Out})
		if err != nil {
			return o, err //nolint:wrapcheck // says what it is
		}
		s.findKubectl()
		if err := s.w.Use(ctx, dataplane.NFTables); err != nil {
			return o, err //nolint:wrapcheck // says what it is
		}
		if err := s.servePods(ctx); err != nil {
			return o, err
		}
		o.Observed, o.Held = o.Expected, true
		return o, nil
	})
	defer func() { err = errors.Join(err, s.close()) }()
	if !up {
		s.logs(opts.Dir)
		return s.t.Summary() //nolint:wrapcheck // says what it is
	}
	if !s.service(ctx) { // the rest is about it
		return s.t.Summary() //nolint:wrapcheck // says what it is
	}
	for _, chapter := range []func(context.Context){s.kernelState, s.traffic, s.schedulers, s.nodeAddresses} {
		if ctx.Err() != nil {
			return errors.Join(s.t.Summary(), ctx.Err())
		}
		chapter(ctx)
	}
	return s.t.Summary() //nolint:wrapcheck // says what it is
}

// logs shows the end of each log: nothing of the machine stays.
func (s *story) logs(dir string) {
	files, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		return // there is no such pattern
	}
	for _, path := range files {
		b, err := os.ReadFile(path) //nolint:gosec // the story's own
		if err != nil {
			continue
		}
		s.t.Note("the end of %s", filepath.Base(path))
		s.t.Output(string(b[max(0, len(b)-2000):]), 0)
	}
}

func kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "a kernel of unknown version"
	}
	return "Linux " + strings.TrimSpace(string(b))
}

// servePods runs a web server as the tutorial's pods do, one on each node.
func (s *story) servePods(ctx context.Context) error {
	for i, n := range s.w.Rig.Nodes() {
		name := fmt.Sprintf("webpod%d", i+1)
		p, err := dataplane.NewPod(name, n, 10)
		if err != nil {
			return err //nolint:wrapcheck // says what it is
		}
		s.pods = append(s.pods, p)
		// A host name of its own is all that a pod has besides its network.
		cmd := exec.CommandContext(context.WithoutCancel(ctx), "unshare", "--uts", "sh", "-c", //nolint:gosec // the repository's own program
			"echo "+name+" > /proc/sys/kernel/hostname && exec "+filepath.Join(s.root, "bin", WhoamiProgram))
		if err := p.Do(cmd.Start); err != nil {
			return fmt.Errorf("start %s: %w", name, err)
		}
		s.servers = append(s.servers, cmd)
	}
	return nil
}

// close ends everything.
func (s *story) close() error {
	var errs []error
	for _, cmd := range s.servers {
		errs = append(errs, cmd.Process.Kill())
		_ = cmd.Wait() // it was killed
	}
	for _, p := range s.pods {
		errs = append(errs, p.Close())
	}
	if s.w != nil {
		errs = append(errs, s.w.Stop())
	}
	return errors.Join(errs...)
}

// findKubectl takes the lab's; the administrator's kubeconfig leads to a loopback that may
// not be this machine's.
func (s *story) findKubectl() {
	c := s.w.Rig.Plane().Config()
	s.tool = []string{
		s.w.Rig.Plane().Program("kubectl"), "--kubeconfig=/dev/null", "--server=" + c.Host, "--tls-server-name=" + c.ServerName,
		"--certificate-authority=" + c.CAFile, "--client-certificate=" + c.CertFile, "--client-key=" + c.KeyFile,
	}
}

// run runs kubectl and shows nothing.
func (s *story) run(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, s.tool[0], append(slices.Clone(s.tool[1:]), args...)...) //nolint:gosec // the story's own commands
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// kubectl shows and runs one command.
func (s *story) kubectl(ctx context.Context, args ...string) (string, error) {
	s.t.Command("", "kubectl %s", strings.Join(args, " "))
	out, err := s.run(ctx, "", args...)
	s.t.Output(out, 0)
	return out, err
}

// apply shows and applies a manifest.
func (s *story) apply(ctx context.Context, manifest string) error {
	s.t.Command("", "cat <<EOF | kubectl apply -f -\n%sEOF", manifest)
	out, err := s.run(ctx, manifest, "apply", "-f", "-")
	s.t.Output(out, 0)
	return err
}

// on shows and runs a command in the network of a node, a pod or a client.
func (s *story) on(ctx context.Context, name string, place dataplane.Place, limit int, argv ...string) (string, error) {
	s.t.Command(name, "%s", strings.Join(argv, " "))
	out, err := s.quiet(ctx, place, argv...)
	s.t.Output(out, limit)
	return out, err
}

// quiet runs a command like on and shows nothing.
func (s *story) quiet(ctx context.Context, place dataplane.Place, argv ...string) (string, error) {
	var out []byte
	err := place.Do(func() (err error) {
		out, err = exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput() //nolint:gosec // the story's own commands
		return err
	})
	if err != nil {
		return string(out), fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}
