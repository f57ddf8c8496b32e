// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-lb/fairlead/test/lab/host"
)

func TestPlanIsTheTutorials(t *testing.T) {
	t.Parallel()
	p, err := NewPlan(4, FamilyDual)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][3]string{
		"switch":        {"172.20.0.1", "invalid IP", ""},
		"control-plane": {"172.20.0.5", "192.168.10.10", "control-plane"},
		"worker":        {"172.20.0.4", "192.168.10.101", "worker1"},
		"worker2":       {"172.20.0.2", "192.168.10.102", "worker2"},
		"worker3":       {"172.20.0.3", "192.168.10.103", "worker3"},
		"mypc":          {"172.20.0.6", "invalid IP", ""},
		"mypc2":         {"172.20.0.7", "invalid IP", ""},
	}
	if len(p.Hosts) != len(want) {
		t.Errorf("%d hosts, want %d", len(p.Hosts), len(want))
	}
	for name, w := range want {
		h := p.Host(name)
		if h == nil {
			t.Fatalf("no host %s", name)
		}
		if got, want := h.Address6.String(), "fd00:172:20::"+w[0][len("172.20.0."):]; got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
		if got := [3]string{h.Address.String(), h.Second.String(), h.Labels["mynode"]}; got != w {
			t.Errorf("%s: got %v, want %v", name, got, w)
		}
	}
	if got := p.Host("control-plane").MAC(); got != [6]byte{0x02, 0x42, 0xac, 0x14, 0x00, 0x05} {
		t.Errorf("MAC %x", got)
	}
}

func TestAddress6ReadsLikeAddress(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"172.20.0.1": "fd00:172:20::1", "172.20.0.249": "fd00:172:20::249", "172.20.1.20": "fd00:172:20::1:20"} {
		if got := address6(netip.MustParseAddr(in)).String(); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// A lab without IPv6 is what it was before labs had any.
func TestPlanWithoutIPv6(t *testing.T) {
	t.Parallel()
	p, err := NewPlan(MaxNodes, FamilyIPv4)
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.AddClient("late")
	if err != nil {
		t.Fatal(err)
	}
	p.Host("worker").PodCIDR = netip.MustParsePrefix("10.10.1.0/24")
	for _, h := range []*Host{p.Host("worker"), c} {
		if h.Address6.IsValid() || len(h.Port().Gateways) != 1 {
			t.Errorf("%s has IPv6: %+v", h.Name, h.Port())
		}
	}
	var words []string
	for _, proc := range append(controlPlane(paths{}, p), nodeProcesses(paths{}, p, p.Host("worker"), "/d", "iptables")...) {
		if proc.Name != "apiserver" { // Services may be dual stack nevertheless
			words = append(words, proc.Argv...)
		}
	}
	words = slices.DeleteFunc(words, func(w string) bool { return strings.HasPrefix(w, "--service-cluster-ip-range=") })
	for _, w := range append(words, cniConfig(p.Host("worker").podCIDRs()), p.podCIDRs()) {
		// The controller manager refuses masks per family where there is one family.
		if strings.Contains(w, "fd00") || strings.Contains(w, "::") || strings.HasPrefix(w, "--node-cidr-mask-size-ipv") {
			t.Errorf("IPv6 in %q", w)
		}
	}
	for name := range sysctls(KindNode, false) {
		if strings.HasPrefix(name, "ipv6") {
			t.Errorf("sysctl %s", name)
		}
	}
	if got := p.Routes(ControlPlane); len(got) != 1 || got[0].Destination.String() != "10.10.1.0/24" {
		t.Errorf("routes %v", got)
	}
}

func TestDualStackArguments(t *testing.T) {
	t.Parallel()
	p, err := NewPlan(2, FamilyDual)
	if err != nil {
		t.Fatal(err)
	}
	argv := map[string][]string{}
	for _, proc := range append(controlPlane(paths{}, p), nodeProcesses(paths{}, p, p.Host("worker"), "/d", "iptables")...) {
		argv[proc.Name] = proc.Argv
	}
	for name, want := range map[string]string{
		// IPv4 first: the first address is what everybody shows and uses.
		"kubelet":            "--node-ip=172.20.0.4,fd00:172:20::4",
		"kube-proxy":         "--cluster-cidr=10.10.0.0/16,fd00:10:10::/56",
		"controller-manager": "--cluster-cidr=10.10.0.0/16,fd00:10:10::/56",
	} {
		if !slices.Contains(argv[name], want) {
			t.Errorf("%s: no %s in %q", name, want, argv[name])
		}
	}
	if s := sysctls(KindNode, true); s["ipv6/conf/all/forwarding"] != "1" || s["ipv6/conf/default/accept_dad"] != "0" {
		t.Errorf("a node's sysctls: %v", s)
	}
	if s := sysctls(KindRouter, true); s["ipv4/ip_forward"] != "1" || s["ipv4/fib_multipath_hash_policy"] != "1" || s["ipv4/conf/all/send_redirects"] != "0" {
		t.Errorf("a router's sysctls: %v", s)
	}
	if s := sysctls(KindClient, true); s["ipv6/conf/all/forwarding"] != "0" || s["ipv4/ip_forward"] != "0" {
		t.Errorf("a client's sysctls: %v", s)
	}
}

func TestPlanHasNoAddressTwice(t *testing.T) {
	t.Parallel()
	p, err := NewPlan(MaxNodes, FamilyDual)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if _, err := p.AddClient("c" + string(rune('a'+len(p.Hosts)-MaxNodes))); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"r1", "r2"} {
		r, err := p.AddRouter(name)
		if err != nil {
			t.Fatal(err)
		}
		if want := map[string]string{"r1": "192.168.10.254", "r2": "192.168.10.253"}[name]; r.Second.String() != want {
			t.Errorf("%s is %s, want %s", name, r.Second, want)
		}
	}
	seen, names := map[netip.Addr]bool{}, map[string]bool{}
	for i := range p.Hosts {
		h := &p.Hosts[i]
		if names[h.Name] {
			t.Errorf("name %s twice", h.Name)
		}
		names[h.Name] = true
		for _, a := range h.prefixes() {
			if seen[a.Addr()] {
				t.Errorf("%s has %s, which another host has too", h.Name, a)
			}
			seen[a.Addr()] = true
		}
	}
}

func TestPlanRefuses(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, -1, MaxNodes + 1} {
		if _, err := NewPlan(n, FamilyDual); err == nil {
			t.Errorf("%d nodes are accepted", n)
		}
	}
	p, err := NewPlan(1, FamilyDual)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "mypc", "worker_1", "A", "../x", strings.Repeat("a", 16)} {
		if _, err := p.AddClient(name); err == nil {
			t.Errorf("client name %q is accepted", name)
		}
	}
}

func TestRoutesLeadToOtherNodesPods(t *testing.T) {
	t.Parallel()
	p, err := NewPlan(3, FamilyDual)
	if err != nil {
		t.Fatal(err)
	}
	p.Host("worker").PodCIDR = netip.MustParsePrefix("10.10.1.0/24")
	p.Host("worker").PodCIDR6 = netip.MustParsePrefix("fd00:10:10:1::/64")
	p.Host("control-plane").PodCIDR = netip.MustParsePrefix("10.10.0.0/24")
	p.Host("control-plane").PodCIDR6 = netip.MustParsePrefix("fd00:10:10::/64")
	want := []host.Route{
		{Destination: netip.MustParsePrefix("10.10.0.0/24"), Via: netip.MustParseAddr("172.20.0.5")},
		{Destination: netip.MustParsePrefix("fd00:10:10::/64"), Via: netip.MustParseAddr("fd00:172:20::5")},
	}
	if got := p.Routes("worker"); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestPKIVerifies(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p, err := NewPlan(2, FamilyDual)
	if err != nil {
		t.Fatal(err)
	}
	if err := makePKI(dir, p, time.Now()); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(certificate(t, filepath.Join(dir, "ca.crt")))
	server := certificate(t, filepath.Join(dir, "apiserver.crt"))
	for _, name := range []string{"kubernetes.default.svc", "172.20.0.5", "fd00:172:20::5", kubernetesService} {
		if _, err := server.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			t.Errorf("server certificate for %s: %v", name, err)
		}
	}
	kubelet := certificate(t, filepath.Join(dir, "kubelet-worker.crt"))
	if _, err := kubelet.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if kubelet.Subject.CommonName != "system:node:worker" || !slices.Equal(kubelet.Subject.Organization, []string{"system:nodes"}) {
		t.Errorf("kubelet's subject is %s", kubelet.Subject)
	}
	front := certificate(t, filepath.Join(dir, "front-proxy.crt"))
	if _, err := front.Verify(x509.VerifyOptions{Roots: roots}); err == nil {
		t.Error("the cluster's authority vouches for the front proxy: anybody with a client certificate could impersonate")
	}
	var kc struct {
		Clusters []struct {
			Cluster struct {
				Server string `json:"server"`
			} `json:"cluster"`
		} `json:"clusters"`
	}
	b, err := os.ReadFile(filepath.Join(dir, "admin.kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(b, &kc); err != nil || kc.Clusters[0].Cluster.Server != "https://172.20.0.5:6443" {
		t.Errorf("kubeconfig: %+v, %v", kc, err)
	}
}

func certificate(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		t.Fatalf("%s holds no PEM", path)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestGeneratedConfigurationIsWellFormed(t *testing.T) {
	t.Parallel()
	p, err := NewPlan(4, FamilyDual)
	if err != nil {
		t.Fatal(err)
	}
	var cni struct {
		Plugins []struct {
			IPAM struct {
				Ranges [][]map[string]string `json:"ranges"`
				Routes []map[string]string   `json:"routes"`
			} `json:"ipam"`
		} `json:"plugins"`
	}
	config := cniConfig([]netip.Prefix{netip.MustParsePrefix("10.10.1.0/24"), netip.MustParsePrefix("fd00:10:10:1::/64")})
	if err := json.Unmarshal([]byte(config), &cni); err != nil {
		t.Fatalf("CNI: %v in %s", err, config)
	}
	ipam := cni.Plugins[0].IPAM
	if len(ipam.Ranges) != 2 || ipam.Ranges[1][0]["subnet"] != "fd00:10:10:1::/64" || len(ipam.Routes) != 2 || ipam.Routes[1]["dst"] != "::/0" {
		t.Errorf("CNI: %+v", ipam)
	}
	for name, taints := range map[string]int{ControlPlane: 1, "worker": 0} {
		b, err := kubeletConfig(paths{pki: "/p"}, p.Host(name), "/d", true)
		if err != nil {
			t.Fatal(err)
		}
		var kc struct {
			RegisterWithTaints []any  `json:"registerWithTaints"`
			VolumePluginDir    string `json:"volumePluginDir"`
		}
		if err := yaml.Unmarshal(b, &kc); err != nil || len(kc.RegisterWithTaints) != taints || kc.VolumePluginDir != "/d/volume-plugins" {
			t.Errorf("%s: %+v, %v", name, kc, err)
		}
	}
	for _, proc := range nodeProcesses(paths{bin: "/b", pki: "/p"}, p, p.Host("worker"), "/d", "nftables") {
		if proc.Name == "kube-proxy" && !slices.Contains(proc.Argv, "--proxy-mode=nftables") {
			t.Errorf("kube-proxy: %q", proc.Argv)
		}
		if proc.Name == "kubelet" && !slices.Contains(proc.Argv, "--node-labels=mynode=worker1,topology.kubernetes.io/zone=ap-northeast-2a") {
			t.Errorf("kubelet: %q", proc.Argv)
		}
	}
}

func TestHasCapability(t *testing.T) {
	t.Parallel()
	status := "Name:\tx\nCapEff:\t000001fffeffffff\n"
	if hasCapability(status, unix.CAP_SYS_RESOURCE) || !hasCapability(status, unix.CAP_NET_ADMIN) {
		t.Error("bit 24 is clear and bit 12 is set")
	}
	if hasCapability("", unix.CAP_NET_ADMIN) {
		t.Error("an empty status has no capability")
	}
}

func TestStateDirectory(t *testing.T) {
	t.Parallel()
	if _, err := Open("/var/lib/lab", "self", io.Discard, time.Now); err == nil {
		t.Error("a directory that every host covers is accepted")
	}
	a, err := Open(t.TempDir(), "self", io.Discard, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Open(t.TempDir(), "self", io.Discard, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if a.state.ID == b.state.ID {
		t.Error("two directories share an id")
	}
	if _, err := a.Kubeconfig(); !errors.Is(err, ErrNotUp) {
		t.Errorf("no lab: %v", err)
	}
}

// A command that had to wait for another one goes on from what that one left.
func TestLock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open := func() *Lab {
		l, err := Open(dir, "self", io.Discard, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	first, second := open(), open()
	release, err := first.Lock(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.Lock(t.Context(), 20*time.Millisecond); err == nil {
		t.Error("two commands change the lab at once")
	}
	locked := make(chan error)
	go func() {
		release, err := second.Lock(t.Context(), 10*time.Second)
		if err == nil {
			release()
		}
		locked <- err
	}()
	first.state.Running["worker"] = &host.Running{Pid: 7}
	if err := first.save(); err != nil {
		t.Fatal(err)
	}
	release()
	if err := <-locked; err != nil {
		t.Fatal(err)
	}
	if r := second.state.Running["worker"]; r == nil || r.Pid != 7 {
		t.Errorf("the second command works on an old state: %+v", second.state.Running)
	}
}

func TestStateSurvivesTheCommand(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, err := Open(dir, "self", io.Discard, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if l.state.Plan, err = NewPlan(2, FamilyDual); err != nil {
		t.Fatal(err)
	}
	l.state.Plan.Host("worker").PodCIDR = netip.MustParsePrefix("10.10.1.0/24")
	if err := l.save(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(dir, "self", io.Discard, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if got := again.state.Plan.Host("worker").PodCIDR.String(); got != "10.10.1.0/24" {
		t.Errorf("pod range %s", got)
	}
	if _, err := again.running("worker"); err == nil || !strings.Contains(err.Error(), "is off") {
		t.Errorf("a host that does not run: %v", err)
	}
	if _, err := again.running("nowhere"); err == nil || !strings.Contains(err.Error(), "worker") {
		t.Errorf("an unknown host's error does not list the hosts: %v", err)
	}
}

func TestStatusIsReadable(t *testing.T) {
	t.Parallel()
	p, err := NewPlan(1, FamilyDual)
	if err != nil {
		t.Fatal(err)
	}
	s := &Status{ID: "x", Up: true, Hosts: []HostStatus{{
		Host: *p.Host(ControlPlane), Running: true, Pid: 7, LinkUp: true,
		Components: []ComponentStatus{{Name: "etcd", Pid: 8, State: "T"}},
	}}}
	var text, js bytes.Buffer
	if err := errors.Join(s.WriteText(&text), s.WriteJSON(&js)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text.String(), "etcd(8, paused)") {
		t.Errorf("text: %s", text.String())
	}
	var got struct {
		Hosts []map[string]any `json:"hosts"`
	}
	if err := json.Unmarshal(js.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	text.Reset()
	if err := (&Status{StateDir: "/none"}).WriteText(&text); err != nil || text.String() != "no lab in /none\n" {
		t.Errorf("status without a lab: %q, %v", text.String(), err)
	}
	if h := got.Hosts[0]; h["name"] != ControlPlane || h["address"] != "172.20.0.5" || h["running"] != true || h["pid"] != float64(7) {
		t.Errorf("JSON: %v", h)
	}
}

func TestComponentsAreNotTheirOrphans(t *testing.T) {
	t.Parallel()
	l, err := Open(t.TempDir(), "self", io.Discard, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	spec := &host.Spec{Name: "worker", Dir: l.hostDir("worker"), Processes: []host.Process{{Name: "containerd", Argv: []string{"/b/containerd"}}}}
	if err := spec.Save(); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{host.EnvComponent: "containerd"}
	got, err := l.componentsOf("worker", 10, []host.Proc{
		{Pid: 11, Parent: 10, State: "S", Argv0: "containerd", Env: env},
		{Pid: 12, Parent: 10, State: "S", Argv0: "containerd-shim-runc-v2", Env: env},
		{Pid: 13, Parent: 11, State: "S", Argv0: "containerd", Env: env},
		{Pid: 14, Parent: 20, State: "S", Argv0: "containerd", Env: env},
	})
	if err != nil || len(got) != 1 || got[0] != (ComponentStatus{Name: "containerd", Pid: 11, State: "S"}) {
		t.Errorf("got %+v, %v", got, err)
	}
}
