// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fairlead-lb/fairlead/test/lab/host"
	"github.com/fairlead-lb/fairlead/test/lab/image"
)

// Options are the choices of "up" that the lab remembers.
type Options struct {
	Nodes     int    `json:"nodes"`
	ProxyMode string `json:"proxyMode"`
	Family    Family `json:"family"`
	// Fairlead says whether Fairlead is installed.
	Fairlead bool `json:"fairlead"`
}

// state is what a lab keeps in lab.json.
type state struct {
	ID      string                   `json:"id"`
	Options Options                  `json:"options"`
	Plan    *Plan                    `json:"plan"`
	Running map[string]*host.Running `json:"running"`
	// Cuts are the partitions that "heal" will end.
	Cuts []Cut `json:"cuts,omitempty"`
	// Ready is set when "up" has come to its end.
	Ready bool `json:"ready"`
}

// Lab is one lab in one state directory. Its methods must not be called
// concurrently, except for those that only read.
type Lab struct {
	dir  string
	self string
	id   string
	out  io.Writer
	// now is the wall clock.
	now   func() time.Time
	start time.Time
	state state
}

// ErrNotUp is returned by every command that needs a running lab.
var ErrNotUp = errors.New("no lab is up there; run: fairlead-lab up")

// Open reads the lab in a state directory, which need not hold one. Progress
// goes to out; self is the fairlead-lab executable.
func Open(dir, self string, out io.Writer, now func() time.Time) (*Lab, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	for _, c := range host.Covered() {
		if dir == c || strings.HasPrefix(dir, c+"/") {
			return nil, fmt.Errorf("state directory %s: %s is private to every host of a lab, choose another place", dir, c)
		}
	}
	sum := sha256.Sum256([]byte(dir))
	l := &Lab{dir: dir, self: self, out: out, now: now, start: now(), id: hex.EncodeToString(sum[:4])}
	return l, l.load()
}

// load reads the state, which is empty where there is no lab.
func (l *Lab) load() error {
	l.state = state{}
	b, err := os.ReadFile(l.path("lab.json"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("state directory: %w", err)
	default:
		if err := json.Unmarshal(b, &l.state); err != nil {
			return fmt.Errorf("state directory: lab.json: %w", err)
		}
	}
	l.state.ID = l.id
	if l.state.Running == nil {
		l.state.Running = map[string]*host.Running{}
	}
	return nil
}

func (l *Lab) path(elem ...string) string {
	return filepath.Join(append([]string{l.dir}, elem...)...)
}

func (l *Lab) hostDir(name string) string { return l.path("hosts", name) }

func (l *Lab) paths() paths {
	return paths{
		bin: l.path("bin"), cni: l.path("bin", "cni"), pki: l.path("pki"), self: l.self,
		certsD: l.path("certs.d"), registry: l.path("registry"),
	}
}

// Store is the lab's image store, which its registry serves.
func (l *Lab) Store() *image.Store { return image.NewStore(l.path("registry")) }

// Kubeconfig is the administrator's kubeconfig. Its server is reachable from
// inside the lab only.
func (l *Lab) Kubeconfig() (string, error) {
	if l.state.Plan == nil {
		return "", ErrNotUp
	}
	return l.path("pki", "admin.kubeconfig"), nil
}

func (l *Lab) save() error {
	b, err := json.MarshalIndent(&l.state, "", "  ")
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	tmp := l.path("lab.json.tmp")
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	if err := os.Rename(tmp, l.path("lab.json")); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	return nil
}

// Lock keeps other commands that change the lab away until release is called. It waits
// for one that is at work, but not longer than patience, and reads the state again:
// that command may have changed it.
func (l *Lab) Lock(ctx context.Context, patience time.Duration) (release func(), err error) {
	if err := os.MkdirAll(l.dir, 0o750); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	f, err := os.OpenFile(l.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		if host.Pause(ctx, lockPoll) != nil {
			return nil, errors.Join(fmt.Errorf("another fairlead-lab command is changing the lab in %s", l.dir), f.Close())
		}
	}
	if err := l.load(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil // closing gives the lock back
}

// lockPoll is how often Lock tries.
const lockPoll = 10 * time.Millisecond

// progress prints one line with the seconds since the command began.
func (l *Lab) progress(format string, args ...any) {
	fmt.Fprintf(l.out, "%6.1fs  %s\n", l.now().Sub(l.start).Seconds(), fmt.Sprintf(format, args...))
}

// running is the PID 1 of a host, or an error that says that it is off.
func (l *Lab) running(name string) (*host.Running, error) {
	if l.state.Plan == nil {
		return nil, ErrNotUp
	}
	if l.state.Plan.Host(name) == nil {
		return nil, fmt.Errorf("no host %s; there are %s", name, strings.Join([]string{
			l.state.Plan.Names(KindNode), l.state.Plan.Names(KindClient), l.state.Plan.Names(KindRouter), SwitchName,
		}, ", "))
	}
	r := l.state.Running[name]
	if !r.Alive() {
		return nil, fmt.Errorf("host %s is off; run: fairlead-lab start %s", name, name)
	}
	return r, nil
}

// Exec runs cmd on a host and returns its error.
func (l *Lab) Exec(name string, cmd *exec.Cmd) error {
	r, err := l.running(name)
	if err != nil {
		return err
	}
	cmd.Env = host.Environ()
	return host.Enter(r.Pid, false, cmd)
}

// Kubectl prepares and runs kubectl with the machine's file system and the
// lab's network.
func (l *Lab) Kubectl(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) error {
	r, err := l.running(SwitchName)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, l.path("bin", "kubectl"), args...) //nolint:gosec // that is the command's purpose
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, errOut
	cmd.Env = append(host.Environ(), "KUBECONFIG="+l.path("pki", "admin.kubeconfig"))
	return host.Enter(r.Pid, true, cmd)
}

// kubectl runs kubectl and returns its output; the error has kubectl's words.
func (l *Lab) kubectl(ctx context.Context, args ...string) (string, error) {
	var out, errOut strings.Builder
	if err := l.Kubectl(ctx, args, nil, &out, &errOut); err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", args[0], err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), nil
}

// Logs copies a component's log: "apiserver", "etcd", "controller-manager" and
// "scheduler" of the control plane, "NODE/kubelet" and the like of any host.
func (l *Lab) Logs(component string, out io.Writer) error {
	if l.state.Plan == nil {
		return ErrNotUp
	}
	name, process, ok := strings.Cut(component, "/")
	if !ok {
		name, process = ControlPlane, component
		if component == "registry" {
			name = SwitchName
		}
	}
	if !filepath.IsLocal(name) || !filepath.IsLocal(process) {
		return fmt.Errorf("no component %q", component)
	}
	f, err := os.Open(filepath.Join(l.hostDir(name), "log", process+".log")) //nolint:gosec // local names, checked above
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no component %s; there are %s", component, strings.Join(l.components(), ", "))
	}
	if err != nil {
		return fmt.Errorf("logs: %w", err)
	}
	defer f.Close()
	if _, err := io.Copy(out, f); err != nil {
		return fmt.Errorf("logs: %w", err)
	}
	return nil
}

func (l *Lab) components() []string {
	logs, err := filepath.Glob(filepath.Join(l.hostDir("*"), "log", "*.log"))
	if err != nil {
		return nil
	}
	out := make([]string, 0, len(logs)+1)
	for _, p := range logs {
		name := filepath.Base(filepath.Dir(filepath.Dir(p)))
		out = append(out, name+"/"+strings.TrimSuffix(filepath.Base(p), ".log"))
	}
	slices.Sort(out)
	return append(out, "controller", "node-agent")
}
