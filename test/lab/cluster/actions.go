// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/fairlead-lb/fairlead/test/lab/host"
)

// Kill cuts a node's power: its link goes down and every process in it dies at
// one instant. It returns the moment just before the link went down.
func (l *Lab) Kill(ctx context.Context, name string) (time.Time, error) {
	if err := l.isNode(name); err != nil {
		return time.Time{}, err
	}
	r, err := l.running(name)
	if err != nil {
		return time.Time{}, err
	}
	sw, err := l.running(SwitchName)
	if err != nil {
		return time.Time{}, err
	}
	cut := l.now()
	// The link first: a dying process's sockets would still say goodbye.
	if err := host.SetLink(sw.Pid, name, false); err != nil {
		return cut, err
	}
	if err := r.Kill(ctx); err != nil {
		return cut, err
	}
	return cut, host.Unplug(sw.Pid, name)
}

// StartHost boots a host that is off, with its disk as it was.
func (l *Lab) StartHost(ctx context.Context, name string) error {
	if l.state.Plan == nil {
		return ErrNotUp
	}
	h := l.state.Plan.Host(name)
	if h == nil || h.Kind == KindSwitch {
		return fmt.Errorf("no host %s; there are %s, %s", name, l.state.Plan.Names(KindNode), l.state.Plan.Names(KindClient))
	}
	if l.state.Running[name].Alive() {
		return fmt.Errorf("host %s is on already", name)
	}
	return l.boot(ctx, &sync.Mutex{}, h)
}

// Link pulls or plugs a host's network cable.
func (l *Lab) Link(name string, up bool) error {
	if _, err := l.running(name); err != nil {
		return err
	}
	if name == SwitchName {
		return errors.New("the switch has no cable")
	}
	sw, err := l.running(SwitchName)
	if err != nil {
		return err
	}
	return host.SetLink(sw.Pid, name, up)
}

// AddClient adds a client host and starts it.
func (l *Lab) AddClient(ctx context.Context, name string) (*Host, error) {
	return l.add(ctx, name, (*Plan).AddClient)
}

// AddRouter adds a router and starts it.
func (l *Lab) AddRouter(ctx context.Context, name string) (*Host, error) {
	return l.add(ctx, name, (*Plan).AddRouter)
}

func (l *Lab) add(ctx context.Context, name string, to func(*Plan, string) (*Host, error)) (*Host, error) {
	if _, err := l.running(SwitchName); err != nil {
		return nil, err
	}
	h, err := to(l.state.Plan, name)
	if err != nil {
		return nil, err
	}
	return h, l.boot(ctx, &sync.Mutex{}, h)
}

func (l *Lab) isNode(name string) error {
	if l.state.Plan == nil {
		return ErrNotUp
	}
	if h := l.state.Plan.Host(name); h == nil || h.Kind != KindNode {
		return fmt.Errorf("no node %s; there are %s", name, l.state.Plan.Names(KindNode))
	}
	return nil
}

// controllerProgram is the process name of Fairlead's cloud controller manager.
const controllerProgram = "fairlead-cloud-controller-manager"

// Freeze stops (SIGSTOP) a component: apiserver, etcd, controller, which is the
// leading cloud controller manager, or NODE/agent. Thaw continues it.
func (l *Lab) Freeze(ctx context.Context, component string) error {
	pids, err := l.componentPids(component)
	if err != nil {
		return err
	}
	if component == "controller" && len(pids) > 1 {
		if pids, err = l.leader(ctx); err != nil {
			return err
		}
	}
	return signalAll(pids, syscall.SIGSTOP)
}

// Thaw continues what Freeze stopped.
func (l *Lab) Thaw(component string) error {
	pids, err := l.componentPids(component)
	if err != nil {
		return err
	}
	return signalAll(pids, syscall.SIGCONT)
}

func signalAll(pids []int, sig syscall.Signal) error {
	for _, pid := range pids {
		if err := syscall.Kill(pid, sig); err != nil {
			return fmt.Errorf("signal %s to %d: %w", sig, pid, err)
		}
	}
	return nil
}

func (l *Lab) componentPids(component string) ([]int, error) {
	if node, ok := strings.CutSuffix(component, "/agent"); ok {
		return l.agentPids(node)
	}
	cp, err := l.running(ControlPlane)
	if err != nil {
		return nil, err
	}
	procs, err := host.Processes(l.state.ID)
	if err != nil {
		return nil, err
	}
	var pids []int
	for i := range procs {
		p := &procs[i]
		switch component {
		case "apiserver", "etcd":
			if p.Parent == cp.Pid && p.Component() == component {
				pids = append(pids, p.Pid)
			}
		case "controller":
			if p.Argv0 == controllerProgram {
				pids = append(pids, p.Pid)
			}
		default:
			return nil, fmt.Errorf("component must be apiserver, etcd, controller or NODE/agent, not %q", component)
		}
	}
	if len(pids) == 0 {
		return nil, fmt.Errorf("component %s is not running", component)
	}
	return pids, nil
}

// leader is the process of the cloud controller manager that holds the lease.
// Its identity starts with its pod's host name.
func (l *Lab) leader(ctx context.Context) ([]int, error) {
	out, err := l.kubectl(ctx, "get", "leases", "-A", "-o",
		`jsonpath={range .items[*]}{.metadata.name}{" "}{.spec.holderIdentity}{"\n"}{end}`)
	if err != nil {
		return nil, err
	}
	procs, err := host.Processes(l.state.ID)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(out) {
		name, holder, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !strings.Contains(name, "fairlead") {
			continue
		}
		for i := range procs {
			p := &procs[i]
			if p.Argv0 == controllerProgram && strings.HasPrefix(holder, p.Env["HOSTNAME"]+"_") {
				return []int{p.Pid}, nil
			}
		}
	}
	return nil, errors.New("no cloud controller manager holds the lease")
}

// Down takes the lab away: processes, and with them every namespace, mount and
// link, then control groups and files. It works from what is on disk and in
// /proc, so that it also cleans up after a crash.
func (l *Lab) Down(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	if err := host.KillAll(ctx, l.state.ID); err != nil {
		return err
	}
	if err := host.RemoveCgroups(ctx, l.state.ID); err != nil {
		return err
	}
	left, err := host.Marked(l.state.ID)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("processes of the lab are left: %v", left)
	}
	for _, f := range []string{"hosts", "bin", "pki", "certs.d", "registry", "lab.json", "lab.json.tmp", "lock"} {
		if err := os.RemoveAll(l.path(f)); err != nil {
			return fmt.Errorf("files are left: %w", err)
		}
	}
	// Only an empty directory is ours alone.
	if err := os.Remove(l.dir); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return fmt.Errorf("files are left: %w", err)
	}
	return nil
}

// Status is the answer of "status -o json".
type Status struct {
	ID       string  `json:"id"`
	StateDir string  `json:"stateDir"`
	Up       bool    `json:"up"`
	Options  Options `json:"options"`
	API      string  `json:"api,omitempty"`
	APIReady bool    `json:"apiReady"`
	// Cuts are the partitions at this moment.
	Cuts  []Cut        `json:"cuts,omitempty"`
	Hosts []HostStatus `json:"hosts"`
}

// HostStatus is one host in a Status.
type HostStatus struct {
	Host
	Running bool `json:"running"`
	// Pid is the host's PID 1 as the machine sees it, 0 when off.
	Pid int `json:"pid"`
	// LinkUp is false when the host is off or its cable is pulled.
	LinkUp bool `json:"linkUp"`
	// Ready is the Node's Ready condition; always false for others.
	Ready      bool              `json:"ready"`
	Components []ComponentStatus `json:"components"`
}

// ComponentStatus is one process that a host keeps running.
type ComponentStatus struct {
	Name string `json:"name"`
	Pid  int    `json:"pid"`
	// State is the letter of proc_pid_stat(5): S and R run, T is paused.
	State string `json:"state"`
}

// Status looks at the lab. It waits for the API server at most three seconds.
func (l *Lab) Status(ctx context.Context) (*Status, error) {
	s := &Status{ID: l.state.ID, StateDir: l.dir, Options: l.state.Options, Cuts: l.state.Cuts, Hosts: []HostStatus{}}
	if l.state.Plan == nil {
		return s, nil
	}
	s.Up, s.API = l.state.Ready, l.state.Plan.apiServer()
	procs, err := host.Processes(l.state.ID)
	if err != nil {
		return nil, err
	}
	ready := l.readyNodes(ctx, s)
	for i := range l.state.Plan.Hosts {
		h := HostStatus{Host: l.state.Plan.Hosts[i], Components: []ComponentStatus{}}
		r := l.state.Running[h.Name]
		if h.Running = r.Alive(); h.Running {
			h.Pid = r.Pid
			h.LinkUp = l.linkUp(h.Name)
			h.Ready = ready[h.Name]
			if h.Components, err = l.componentsOf(h.Name, r.Pid, procs); err != nil {
				return nil, err
			}
		}
		s.Hosts = append(s.Hosts, h)
	}
	return s, nil
}

// componentsOf picks a host's components out of the lab's processes. Orphans,
// such as container shims, are children of PID 1 too, but run other programs.
func (l *Lab) componentsOf(name string, pid int, procs []host.Proc) ([]ComponentStatus, error) {
	spec, err := host.LoadSpec(filepath.Join(l.hostDir(name), "spec.json"))
	if err != nil {
		return nil, err
	}
	out := []ComponentStatus{}
	for i := range spec.Processes {
		want := &spec.Processes[i]
		for j := range procs {
			p := &procs[j]
			if p.Parent == pid && p.Component() == want.Name && p.Argv0 == filepath.Base(want.Argv[0]) {
				out = append(out, ComponentStatus{Name: want.Name, Pid: p.Pid, State: p.State})
			}
		}
	}
	return out, nil
}

func (l *Lab) readyNodes(ctx context.Context, s *Status) map[string]bool {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	ready := map[string]bool{}
	nodes, err := l.nodes(ctx)
	s.APIReady = err == nil
	for i := range nodes {
		ready[nodes[i].Metadata.Name] = nodes[i].ready()
	}
	return ready
}

func (l *Lab) linkUp(name string) bool {
	if name == SwitchName {
		return true
	}
	sw, err := l.running(SwitchName)
	if err != nil {
		return false
	}
	up, err := host.LinkUp(sw.Pid, name)
	return err == nil && up
}

// WriteJSON prints the status as JSON.
func (s *Status) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(s)
}

// WriteText prints the status for people.
func (s *Status) WriteText(w io.Writer) error {
	if len(s.Hosts) == 0 {
		_, err := fmt.Fprintf(w, "no lab in %s\n", s.StateDir)
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	state := "down"
	if s.Up {
		state = "up"
	}
	fmt.Fprintf(tw, "lab %s in %s is %s, %s, kube-proxy %s, API %s (ready: %t)\n\n", s.ID, s.StateDir, state, s.Options.Family, s.Options.ProxyMode, s.API, s.APIReady)
	for _, c := range s.Cuts {
		fmt.Fprintf(tw, "%s cut off from %s\n\n", strings.Join(c.Nodes, ", "), c.From)
	}
	fmt.Fprintln(tw, "HOST\tKIND\tADDRESS\tSTATE\tLINK\tREADY\tCOMPONENTS")
	for i := range s.Hosts {
		h := &s.Hosts[i]
		var names []string
		for _, c := range h.Components {
			names = append(names, fmt.Sprintf("%s(%d%s)", c.Name, c.Pid, map[bool]string{true: ", paused"}[c.State == "T"]))
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%t\t%s\n", h.Name, h.Kind, strings.Join(h.addresses(), " "), onOff(h.Running), onOff(h.LinkUp), h.Ready, strings.Join(names, " "))
	}
	return tw.Flush()
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}
