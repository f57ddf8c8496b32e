// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/test/lab/host"
)

// boot starts one host of the plan and remembers it. It may be called for
// several hosts at once.
func (l *Lab) boot(ctx context.Context, mu *sync.Mutex, h *Host) error {
	s, err := l.spec(h)
	if err != nil {
		return err
	}
	r, err := host.Start(ctx, l.self, s, func(pid int) error { return l.plug(pid, h) })
	if err != nil {
		return err
	}
	mu.Lock()
	defer mu.Unlock()
	l.state.Running[h.Name] = r
	return l.save()
}

func (l *Lab) plug(pid int, h *Host) error {
	if h.Kind == KindSwitch {
		// 192.168.10.1 lets clients reach the nodes' second addresses.
		return host.MakeSwitch(pid, h.MAC(), append(h.prefixes(), switchSecond()))
	}
	if err := host.Plug(l.state.Running[SwitchName].Pid, pid, h.Port()); err != nil {
		return err
	}
	if h.Kind != KindNode {
		return nil
	}
	if err := host.SetRoutes(pid, l.state.Plan.Routes(h.Name)); err != nil {
		return err
	}
	return host.SetNeighbours(pid, l.state.Plan.acrossOf(h.Name, l.state.Cuts, true))
}

// spec says what a host runs and writes the files its processes read.
func (l *Lab) spec(h *Host) (*host.Spec, error) {
	dir := l.hostDir(h.Name)
	s := &host.Spec{
		Lab: l.state.ID, Name: h.Name, Dir: dir, Node: h.Kind == KindNode,
		EtcHosts: l.state.Plan.EtcHosts(), Sysctls: sysctls(h.Kind, l.state.Plan.dual()),
	}
	switch h.Kind {
	case KindClient, KindRouter:
	case KindSwitch:
		// Frames that the bridge forwards must not meet packet filters.
		for _, f := range []string{"bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables", "bridge/bridge-nf-call-arptables"} {
			if _, err := os.Stat("/proc/sys/net/" + f); err == nil {
				s.Sysctls[f] = "0"
			}
		}
		s.Processes = []host.Process{{
			Name: "registry", Argv: []string{l.self, "registry", l.paths().registry, registryAddr().String()},
		}}
	case KindNode:
		return s, l.nodeSpec(s, h)
	}
	return s, nil
}

func (l *Lab) nodeSpec(s *host.Spec, h *Host) error {
	p := l.paths()
	binds := []string{"containerd", "kubelet"}
	if h.Name == ControlPlane {
		binds = append(binds, "etcd")
		s.Processes = controlPlane(p, l.state.Plan)
	}
	s.Processes = append(s.Processes, nodeProcesses(p, l.state.Plan, h, s.Dir, l.state.Options.ProxyMode)...)
	for _, b := range append(binds, "cni") {
		if err := os.MkdirAll(filepath.Join(s.Dir, b), 0o700); err != nil {
			return fmt.Errorf("host %s: %w", h.Name, err)
		}
	}
	for _, b := range binds {
		s.Binds = append(s.Binds, host.Bind{Source: filepath.Join(s.Dir, b), Target: "/var/lib/" + b})
	}
	kubelet, err := kubeletConfig(p, h, s.Dir, l.state.Options.Nodes > 1)
	if err != nil {
		return err
	}
	m, err := probeMachine(l.dir)
	if err != nil {
		return err
	}
	return errors.Join(
		writeFile(filepath.Join(s.Dir, "kubelet.yaml"), string(kubelet)),
		writeFile(filepath.Join(s.Dir, "containerd.toml"), containerdConfig(p, s.Dir, m)),
	)
}

func writeFile(path, content string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// machine is what the lab finds out about the machine it runs on.
type machine struct {
	// restrictOOM says that this process may not lower oom_score_adj, for want
	// of CAP_SYS_RESOURCE, and that containerd must therefore not try.
	restrictOOM bool
	// snapshotter is containerd's; overlayfs cannot lie on an overlay.
	snapshotter string
}

func probeMachine(stateDir string) (machine, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return machine{}, fmt.Errorf("capabilities: %w", err)
	}
	m := machine{restrictOOM: !hasCapability(string(b), unix.CAP_SYS_RESOURCE), snapshotter: "overlayfs"}
	var st unix.Statfs_t
	if err := unix.Statfs(stateDir, &st); err != nil {
		return machine{}, fmt.Errorf("state directory: %w", err)
	}
	if st.Type == unix.OVERLAYFS_SUPER_MAGIC {
		m.snapshotter = "native"
	}
	return m, nil
}

func hasCapability(status string, capability int) bool {
	for line := range strings.Lines(status) {
		if v, ok := strings.CutPrefix(line, "CapEff:"); ok {
			set, err := strconv.ParseUint(strings.TrimSpace(v), 16, 64)
			return err == nil && set&(1<<capability) != 0
		}
	}
	return false
}

// bootAll starts hosts in parallel and joins their errors.
func (l *Lab) bootAll(ctx context.Context, hosts []*Host) error {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs = make([]error, len(hosts))
	)
	for i, h := range hosts {
		wg.Go(func() { errs[i] = l.boot(ctx, &mu, h) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
