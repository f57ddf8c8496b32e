// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// defaultExclude are the names of interfaces that belong to container networks, as
// MetalLB's shipped configuration has them.
const defaultExclude = `^(docker.*|cbr.*|dummy.*|virbr.*|lxcbr.*|veth.*|lo|cali.*|tunl.*|flannel.*|kube-ipvs.*|cni.*|nodelocaldns.*|lxc.*)$`

// The profiles of detection.
const (
	profileFast    = "fast"
	profileDefault = "default"
	profileWAN     = "wan"
)

// Who forwards packets on this node.
const (
	dataPlaneAuto      = "auto"
	dataPlaneIPVS      = "ipvs"
	dataPlaneKubeProxy = "kube-proxy"
)

// Bounds of the grace of a restart: the kernel keeps lifetimes in seconds and lets them
// end late; and an address that is released while the agent is away may be given to
// another Service after 100 s.
const (
	minRestartGrace = 5 * time.Second
	maxRestartGrace = 90 * time.Second
)

// maxBGPDrain is what a Pod's terminationGracePeriodSeconds can reasonably be told to allow.
const maxBGPDrain = 10 * time.Minute

// minAnnounceInterval leaves room for ten thousand addresses under the bound on frames.
const minAnnounceInterval = 10 * time.Second

// Options are what an administrator sets.
type Options struct {
	// NodeName is this Node's metadata.name.
	NodeName string
	// NodeIP is the address that the gossip binds; empty means the Node's first
	// InternalIP, or its address on the default route.
	NodeIP string
	// Kubeconfig is a file; empty means the Pod's service account.
	Kubeconfig string
	// GossipPort is used for TCP and UDP.
	GossipPort int
	// GossipKeyFile holds one base64 key of 32 bytes per line, the primary first.
	GossipKeyFile string
	// HealthAddress serves /healthz, /readyz and /debug/state over plain HTTP.
	HealthAddress string
	// MetricsAddress serves /metrics over HTTPS; empty serves none.
	MetricsAddress string
	// DaemonSetName is the DaemonSet that the agent is part of, Namespace where it is: an
	// agent whose DaemonSet is gone leaves when it is stopped, and is restarted otherwise.
	DaemonSetName, Namespace string
	// RestartGrace is how long the node's kernel answers for the agent's addresses while
	// the agent restarts; 0 makes every stop a leave.
	RestartGrace time.Duration
	// Profile is how quickly peers take a silent node for dead: fast, default or wan.
	Profile string
	// AnnounceInterval is how often neighbours are told again of each address, for switches
	// that forget where it is; 0 is never.
	AnnounceInterval time.Duration
	// ExcludeInterfaces matches the names of interfaces that never announce.
	ExcludeInterfaces string
	// DataPlane is who forwards: auto is IPVS where the kernel has it and nothing on the
	// node speaks against it, ipvs where the kernel has it, kube-proxy never IPVS.
	DataPlane string
	// ClusterCIDRs are sources that count as within the cluster, beside the nodes' pod ranges.
	ClusterCIDRs []netip.Prefix
	// SysctlRoot is where the host's /proc/sys can be written.
	SysctlRoot string
	// BackendMetrics has a series for each real server of each virtual server.
	BackendMetrics bool
	// BGPDrain is how long routes ask for the least preference before they go, where the node
	// leaves for good.
	BGPDrain time.Duration
	// BGPListenPort is where routers of passive peers connect to, 0 refuses such peers.
	BGPListenPort int
	// MetalLBMetricNames has metrics of BGP by MetalLB's names too.
	MetalLBMetricNames bool
}

// Defaults returns the options as shipped. getenv reads the environment: NODE_NAME,
// NODE_IP and POD_NAMESPACE come from the downward API.
func Defaults(getenv func(string) string) Options {
	namespace := getenv("POD_NAMESPACE")
	if namespace == "" {
		namespace = "fairlead-system"
	}
	return Options{
		NodeName:          getenv("NODE_NAME"),
		NodeIP:            getenv("NODE_IP"),
		GossipPort:        7956,
		GossipKeyFile:     "/etc/fairlead/gossip/keys",
		HealthAddress:     "127.0.0.1:7957",
		MetricsAddress:    ":7480",
		DaemonSetName:     "fairlead-node-agent",
		Namespace:         namespace,
		RestartGrace:      30 * time.Second,
		Profile:           profileDefault,
		AnnounceInterval:  time.Minute,
		ExcludeInterfaces: defaultExclude,
		DataPlane:         dataPlaneAuto,
		SysctlRoot:        "/proc/sys",
		BGPDrain:          5 * time.Second,
	}
}

// AddFlags binds the options to flags.
func (o *Options) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.NodeName, "node-name", o.NodeName, "name of this Node (default: $NODE_NAME)")
	fs.StringVar(&o.NodeIP, "node-ip", o.NodeIP,
		"address for the gossip (default: $NODE_IP, the Node's InternalIP, or the address on the default route)")
	fs.StringVar(&o.Kubeconfig, "kubeconfig", o.Kubeconfig, "kubeconfig file (default: the Pod's service account)")
	fs.IntVar(&o.GossipPort, "gossip-port", o.GossipPort, "TCP and UDP port of the gossip between node agents")
	fs.StringVar(&o.GossipKeyFile, "gossip-key-file", o.GossipKeyFile, "file with the gossip keys, from the Secret fairlead-gossip")
	fs.StringVar(&o.HealthAddress, "health-address", o.HealthAddress, "address of /healthz, /readyz and /debug/state; loopback only")
	fs.StringVar(&o.MetricsAddress, "metrics-address", o.MetricsAddress, "address of /metrics over HTTPS; empty serves none")
	fs.StringVar(&o.DaemonSetName, "daemonset-name", o.DaemonSetName, "DaemonSet that this agent is part of, in the namespace $POD_NAMESPACE")
	fs.DurationVar(&o.RestartGrace, "restart-grace", o.RestartGrace,
		"how long the node's kernel answers while the agent restarts, 5s to 90s; 0 hands over at every stop")
	fs.StringVar(&o.Profile, "profile", o.Profile, "how quickly a silent node counts as dead: fast, default or wan")
	fs.DurationVar(&o.AnnounceInterval, "announce-interval", o.AnnounceInterval,
		"how often neighbours are told again of each address, at least 10s; 0 is never")
	fs.StringVar(&o.ExcludeInterfaces, "exclude-interfaces", o.ExcludeInterfaces, "regular expression of interface names that never announce")
	fs.StringVar(&o.DataPlane, "data-plane", o.DataPlane,
		"who forwards packets on this node: auto (IPVS where the kernel and the node's other software allow it), ipvs or kube-proxy")
	fs.Var(prefixes{&o.ClusterCIDRs}, "cluster-cidrs", "sources that count as within the cluster, beside the nodes' pod ranges; separated by commas")
	fs.StringVar(&o.SysctlRoot, "sysctl-root", o.SysctlRoot, "where the host's /proc/sys can be written")
	fs.BoolVar(&o.BackendMetrics, "backend-metrics", o.BackendMetrics, "serve metrics for each backend too, not only for each port of an address")
	fs.DurationVar(&o.BGPDrain, "bgp-drain", o.BGPDrain,
		"how long BGP routes ask for the least preference before they are withdrawn, where the node leaves; 0 withdraws at once")
	fs.IntVar(&o.BGPListenPort, "bgp-listen-port", o.BGPListenPort,
		"TCP port that routers of passive BGP peers connect to, while there are such; below 1024 it needs CAP_NET_BIND_SERVICE; 0 refuses such peers")
	fs.BoolVar(&o.MetalLBMetricNames, "metallb-metric-names", o.MetalLBMetricNames, "serve the metrics of BGP and BFD by MetalLB's names too")
}

// Validate reports every fault of the options at once.
func (o *Options) Validate() error {
	var errs []error
	if o.NodeName == "" {
		errs = append(errs, errors.New("--node-name: must not be empty (set it, or NODE_NAME)"))
	}
	if o.NodeIP != "" {
		if _, err := netip.ParseAddr(o.NodeIP); err != nil {
			errs = append(errs, fmt.Errorf("--node-ip: %w", err))
		}
	}
	if o.GossipPort < 1 || o.GossipPort > 65535 {
		errs = append(errs, fmt.Errorf("--gossip-port: %d is not between 1 and 65535", o.GossipPort))
	}
	if o.GossipKeyFile == "" {
		errs = append(errs, errors.New("--gossip-key-file: must not be empty: the gossip is always encrypted"))
	}
	if err := loopback(o.HealthAddress); err != nil {
		errs = append(errs, fmt.Errorf("--health-address: %w", err))
	}
	if o.MetricsAddress != "" {
		if _, _, err := net.SplitHostPort(o.MetricsAddress); err != nil {
			errs = append(errs, fmt.Errorf("--metrics-address: %w", err))
		}
	}
	if o.DaemonSetName == "" {
		errs = append(errs, errors.New("--daemonset-name: must not be empty"))
	}
	if o.RestartGrace != 0 && (o.RestartGrace < minRestartGrace || o.RestartGrace > maxRestartGrace) {
		errs = append(errs, fmt.Errorf("--restart-grace: %s is neither 0 nor between %s and %s", o.RestartGrace, minRestartGrace, maxRestartGrace))
	}
	switch o.Profile {
	case profileFast, profileDefault, profileWAN:
	default:
		errs = append(errs, fmt.Errorf("--profile: %q is none of %s, %s and %s", o.Profile, profileFast, profileDefault, profileWAN))
	}
	if o.AnnounceInterval != 0 && o.AnnounceInterval < minAnnounceInterval {
		errs = append(errs, fmt.Errorf("--announce-interval: %s is neither 0 nor at least %s", o.AnnounceInterval, minAnnounceInterval))
	}
	if _, err := regexp.Compile(o.ExcludeInterfaces); err != nil {
		errs = append(errs, fmt.Errorf("--exclude-interfaces: %w", err))
	}
	switch o.DataPlane {
	case dataPlaneAuto, dataPlaneIPVS, dataPlaneKubeProxy:
	default:
		errs = append(errs, fmt.Errorf("--data-plane: %q is none of %s, %s and %s", o.DataPlane, dataPlaneAuto, dataPlaneIPVS, dataPlaneKubeProxy))
	}
	if o.BGPDrain < 0 || o.BGPDrain > maxBGPDrain {
		errs = append(errs, fmt.Errorf("--bgp-drain: %s is not between 0 and %s", o.BGPDrain, maxBGPDrain))
	}
	if o.BGPListenPort < 0 || o.BGPListenPort > 65535 {
		errs = append(errs, fmt.Errorf("--bgp-listen-port: %d is not between 0 and 65535", o.BGPListenPort))
	}
	if o.SysctlRoot == "" {
		errs = append(errs, errors.New("--sysctl-root: must not be empty"))
	}
	return errors.Join(errs...)
}

// prefixes is a flag of CIDRs separated by commas.
type prefixes struct{ to *[]netip.Prefix }

// String shows the value as it is given.
func (p prefixes) String() string {
	if p.to == nil {
		return ""
	}
	var out []string
	for _, one := range *p.to {
		out = append(out, one.String())
	}
	return strings.Join(out, ",")
}

// Set replaces the value; no prefix has bits of hosts.
func (p prefixes) Set(s string) error {
	var out []netip.Prefix
	for one := range strings.SplitSeq(s, ",") {
		if one = strings.TrimSpace(one); one == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(one)
		if err != nil {
			return err //nolint:wrapcheck // names the prefix itself
		}
		out = append(out, prefix.Masked())
	}
	*p.to = out
	return nil
}

// Type names the kind of value in the help.
func (prefixes) Type() string { return "cidrs" }

// loopback insists on a loopback address: the health port is not authenticated.
func loopback(address string) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return err //nolint:wrapcheck // names the address itself
	}
	if !ap.Addr().IsLoopback() {
		return fmt.Errorf("%s is not a loopback address", ap.Addr())
	}
	return nil
}
