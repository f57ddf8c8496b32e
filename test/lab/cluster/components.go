// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/fairlead-lb/fairlead/test/lab/host"
)

// paths are the places of one lab that component command lines refer to.
type paths struct {
	// bin holds the built binaries, cni the plugins.
	bin, cni string
	pki      string
	// self is the fairlead-lab executable.
	self string
	// certsD tells containerd where images come from.
	certsD   string
	registry string
}

func (p paths) tool(name string) string { return filepath.Join(p.bin, name) }
func (p paths) key(name string) string  { return filepath.Join(p.pki, name) }

const etcdURL = "http://127.0.0.1:2379"

// controlPlane lists the processes of the control plane in starting order.
func controlPlane(p paths, plan *Plan) []host.Process {
	addr := plan.Host(ControlPlane).Address
	ready := plan.apiServer() + "/readyz"
	return []host.Process{
		{Name: "etcd", Argv: []string{
			p.tool("etcd"), "--name=lab", "--data-dir=/var/lib/etcd",
			"--listen-client-urls=" + etcdURL, "--advertise-client-urls=" + etcdURL,
			"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
			"--initial-cluster=lab=http://127.0.0.1:2380", "--log-level=warn",
			// A lab survives the death of its processes, not of the machine.
			"--unsafe-no-fsync",
		}},
		{Name: "apiserver", Argv: apiserver(p, addr)},
		{Name: "controller-manager", After: []string{ready}, Argv: []string{
			p.tool("kube-controller-manager"), "--kubeconfig=" + p.key("controller-manager.kubeconfig"),
			"--bind-address=127.0.0.1", "--leader-elect=false", "--use-service-account-credentials=true",
			"--service-account-private-key-file=" + p.key("sa.key"), "--root-ca-file=" + p.key("ca.crt"),
			"--cluster-signing-cert-file=" + p.key("ca.crt"), "--cluster-signing-key-file=" + p.key("ca.key"),
			"--cloud-provider=external", "--allocate-node-cidrs=true",
			// Its masks are the defaults, /24 and /64; the flags differ between single and dual stack.
			"--cluster-cidr=" + plan.podCIDRs(), "--service-cluster-ip-range=" + serviceCIDRs,
		}},
		{Name: "scheduler", After: []string{ready}, Argv: []string{
			p.tool("kube-scheduler"), "--kubeconfig=" + p.key("scheduler.kubeconfig"),
			"--bind-address=127.0.0.1", "--leader-elect=false",
		}},
	}
}

func apiserver(p paths, addr netip.Addr) []string {
	return []string{
		p.tool("kube-apiserver"), "--etcd-servers=" + etcdURL, "--bind-address=0.0.0.0",
		"--advertise-address=" + addr.String(), fmt.Sprintf("--secure-port=%d", apiPort),
		"--tls-cert-file=" + p.key("apiserver.crt"), "--tls-private-key-file=" + p.key("apiserver.key"),
		"--client-ca-file=" + p.key("ca.crt"),
		"--kubelet-client-certificate=" + p.key("kubelet-client.crt"), "--kubelet-client-key=" + p.key("kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP,Hostname",
		"--requestheader-client-ca-file=" + p.key("front-proxy-ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + p.key("front-proxy.crt"), "--proxy-client-key-file=" + p.key("front-proxy.key"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + p.key("sa.pub"), "--service-account-signing-key-file=" + p.key("sa.key"),
		"--service-cluster-ip-range=" + serviceCIDRs, "--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
	}
}

// nodeProcesses lists what every node runs.
func nodeProcesses(p paths, plan *Plan, h *Host, dir, proxyMode string) []host.Process {
	ready := plan.apiServer() + "/readyz"
	path := "PATH=" + strings.Join([]string{p.bin, "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}, ":")
	return []host.Process{
		{
			Name: "containerd", Env: []string{path},
			Argv: []string{p.tool("containerd"), "--config", filepath.Join(dir, "containerd.toml")},
		},
		{
			Name: "kubelet", Env: []string{path},
			After: []string{"unix:/run/containerd/containerd.sock", ready},
			Argv: []string{
				p.tool("kubelet"), "--config=" + filepath.Join(dir, "kubelet.yaml"),
				"--kubeconfig=" + p.key("kubelet-"+h.Name+".kubeconfig"), "--hostname-override=" + h.Name,
				"--node-ip=" + strings.Join(h.addresses(), ","), "--cloud-provider=external", "--node-labels=" + labels(h.Labels),
			},
		},
		{
			Name: "kube-proxy", Env: []string{path}, After: []string{ready},
			Argv: []string{
				p.tool("kube-proxy"), "--kubeconfig=" + p.key("kube-proxy.kubeconfig"), "--hostname-override=" + h.Name,
				"--proxy-mode=" + proxyMode, "--cluster-cidr=" + plan.podCIDRs(),
				// These sysctls belong to the whole machine and are read-only here.
				"--conntrack-max-per-core=0", "--conntrack-min=0",
				"--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s",
			},
		},
	}
}

func labels(m map[string]string) string {
	kv := make([]string, 0, len(m))
	for k, v := range m {
		kv = append(kv, k+"="+v)
	}
	slices.Sort(kv)
	return strings.Join(kv, ",")
}

// kubeletConfig is the node's KubeletConfiguration. Without pod-level control
// groups per quality of service the same file works on both versions.
func kubeletConfig(p paths, h *Host, dir string, taint bool) ([]byte, error) {
	c := map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"failCgroupV1": false, "cgroupDriver": "cgroupfs", "cgroupRoot": "/", "cgroupsPerQOS": false, "enforceNodeAllocatable": []string{},
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false}, "webhook": map[string]any{"enabled": true},
			"x509": map[string]any{"clientCAFile": p.key("ca.crt")},
		},
		"authorization": map[string]any{"mode": "Webhook"},
		// Nobody answers there; a missing entry would be an event on every pod.
		"clusterDomain": "cluster.local", "clusterDNS": []string{clusterDNS}, "resolvConf": "", "failSwapOn": false,
		"containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
		"volumePluginDir":          filepath.Join(dir, "volume-plugins"),
		// A Secret volume that appears after its pod is seen within seconds.
		"syncFrequency": "5s",
		"evictionHard":  map[string]string{"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
		// Images are local; throwing them away would only cost time.
		"imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
		"localStorageCapacityIsolation": false, "serializeImagePulls": false,
		"registerWithTaints": []any{},
	}
	if taint && h.Name == ControlPlane {
		c["registerWithTaints"] = []any{map[string]string{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}}
	}
	b, err := yaml.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("kubelet configuration: %w", err)
	}
	return b, nil
}

// containerdConfig points containerd at the lab's plugins, CNI configuration
// and registry.
func containerdConfig(p paths, dir string, m machine) string {
	return fmt.Sprintf(`version = 3
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
  address = "/run/containerd/containerd.sock"

[plugins.'io.containerd.cri.v1.images']
  snapshotter = %q
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = %q
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = %q

[plugins.'io.containerd.cri.v1.runtime']
  # A profile would be loaded into the machine's kernel.
  disable_apparmor = true
  restrict_oom_score_adj = %t
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = [%q]
    conf_dir = %q
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      BinaryName = %q
      SystemdCgroup = false
`, m.snapshotter, PauseImage, p.certsD, m.restrictOOM, p.cni, filepath.Join(dir, "cni"), p.tool("runc"))
}

// hostsTOML makes the lab's registry the only source of images, whatever
// registry an image name says: nothing is ever asked of the internet.
func hostsTOML() string {
	url := "http://" + registryAddr().String()
	return fmt.Sprintf("server = %q\n\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", url, url)
}

// cniConfig connects pods as kind does: one routed veth pair per pod, no
// bridge, no masquerading.
func cniConfig(podCIDRs []netip.Prefix) string {
	var ranges, routes []string
	for _, p := range podCIDRs {
		ranges = append(ranges, fmt.Sprintf("[{\"subnet\": %q}]", p))
		all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if p.Addr().Is6() {
			all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		routes = append(routes, fmt.Sprintf("{\"dst\": %q}", all))
	}
	return fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "lab", "plugins": [
  {"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "ranges": [%s], "routes": [%s]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
`, strings.Join(ranges, ", "), strings.Join(routes, ", "))
}

// sysctls are below /proc/sys/net in a host's own network namespace. Named one
// by one because a new namespace inherits some from the machine.
func sysctls(k Kind, dual bool) map[string]string {
	forward := "1"
	if k == KindClient {
		forward = "0"
	}
	s := map[string]string{
		"ipv4/ip_forward":              forward,
		"ipv4/conf/all/rp_filter":      "0",
		"ipv4/conf/default/rp_filter":  "0",
		"ipv4/conf/all/arp_ignore":     "0",
		"ipv4/conf/all/arp_announce":   "0",
		"ipv4/conf/all/send_redirects": "1",
	}
	if k == KindRouter {
		// Next hops are chosen by the ports too, and nobody is told of a shorter way.
		s["ipv4/fib_multipath_hash_policy"] = "1"
		s["ipv4/conf/all/send_redirects"], s["ipv4/conf/default/send_redirects"] = "0", "0"
		if dual {
			s["ipv6/fib_multipath_hash_policy"] = "1"
		}
	}
	if dual {
		s["ipv6/conf/all/disable_ipv6"], s["ipv6/conf/default/disable_ipv6"] = "0", "0"
		s["ipv6/conf/all/forwarding"] = forward
		// The plan has no address twice, and to ask takes two seconds each time a
		// host or a pod's cable appears.
		s["ipv6/conf/all/accept_dad"], s["ipv6/conf/default/accept_dad"] = "0", "0"
	}
	return s
}
