// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/fairlead-lb/fairlead/test/lab/host"
)

// Kind says what a host is for.
type Kind string

// The kinds of hosts.
const (
	KindSwitch Kind = "switch"
	KindNode   Kind = "node"
	KindClient Kind = "client"
	// KindRouter forwards packets and has a place in the nodes' second network. Which
	// routing protocols it speaks is up to whoever runs them there.
	KindRouter Kind = "router"
)

// SwitchName is the host that carries the bridge, the gateway address and the
// image registry.
const SwitchName = "switch"

// ControlPlane is the node that runs the control plane.
const ControlPlane = "control-plane"

// MaxNodes is how many nodes the address plan has room for.
const MaxNodes = 64

// Networks of the lab, as in the tutorial that it re-enacts.
const (
	podCIDR  = "10.10.0.0/16"
	podCIDR6 = "fd00:10:10::/56"
	// serviceCIDRs: Services may be dual stack where nodes and pods have IPv4 only.
	serviceCIDRs = "10.200.1.0/24,fd00:10:200:1::/112"
	// kubernetesService is the first address of serviceCIDRs.
	kubernetesService = "10.200.1.1"
	// clusterDNS is where a cluster's name server would be.
	clusterDNS = "10.200.1.10"
	// apiPort is kind's and kubeadm's default.
	apiPort      = 6443
	registryPort = 5000
)

// Host is one machine of the plan.
type Host struct {
	Name string `json:"name"`
	Kind Kind   `json:"kind"`
	// Address is the host's address in 172.20.0.0/16.
	Address netip.Addr `json:"address"`
	// Address6 is the host's address in fd00:172:20::/64, unset in a lab without IPv6.
	Address6 netip.Addr `json:"address6,omitzero"`
	// Second is the node's or router's address in 192.168.10.0/24, unset for clients.
	Second netip.Addr `json:"second,omitzero"`
	// Labels are the node's labels.
	Labels map[string]string `json:"labels,omitempty"`
	// PodCIDR and PodCIDR6 are assigned by the controller manager; unset before,
	// and PodCIDR6 in a lab without IPv6.
	PodCIDR  netip.Prefix `json:"podCIDR,omitzero"`
	PodCIDR6 netip.Prefix `json:"podCIDR6,omitzero"`
}

// Plan is a lab's hosts: the switch first, then nodes, then clients.
type Plan struct {
	Hosts []Host `json:"hosts"`
}

// Family says which addresses hosts and pods have.
type Family string

// The families of a lab.
const (
	// FamilyIPv4 is IPv4 only.
	FamilyIPv4 Family = "ipv4"
	// FamilyDual is IPv4 first, and IPv6.
	FamilyDual Family = "dual"
)

// NewPlan lays out a lab with that many nodes, 1 to MaxNodes, and the clients
// mypc and mypc2.
func NewPlan(nodes int, family Family) (*Plan, error) {
	if nodes < 1 || nodes > MaxNodes {
		return nil, fmt.Errorf("--nodes must be 1 to %d, not %d", MaxNodes, nodes)
	}
	p := &Plan{Hosts: []Host{{Name: SwitchName, Kind: KindSwitch, Address: gateway()}}}
	for i := range nodes {
		p.Hosts = append(p.Hosts, node(i))
	}
	if family == FamilyDual {
		for i := range p.Hosts {
			p.Hosts[i].Address6 = address6(p.Hosts[i].Address)
		}
	}
	for _, c := range []string{"mypc", "mypc2"} {
		if _, err := p.AddClient(c); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func gateway() netip.Addr { return netip.AddrFrom4([4]byte{172, 20, 0, 1}) }

// dual says whether hosts and pods have IPv6 addresses.
func (p *Plan) dual() bool { return p.Hosts[0].Address6.IsValid() }

// podCIDRs are the ranges of all pods as components take them.
func (p *Plan) podCIDRs() string {
	if p.dual() {
		return podCIDR + "," + podCIDR6
	}
	return podCIDR
}

// address6 has the IPv4 address's last two numbers, as they are written, for
// its last: 172.20.1.20 is fd00:172:20::1:20.
func address6(a netip.Addr) netip.Addr {
	b := a.As4()
	out := netip.MustParseAddr("fd00:172:20::").As16()
	for i, n := range []byte{b[2], b[3]} {
		out[12+2*i], out[13+2*i] = n/100, n/10%10<<4|n%10
	}
	return netip.AddrFrom16(out)
}

// node is the i-th node. The first four have the addresses, labels and zones
// of the tutorial; more workers follow from 172.20.1.4 on.
func node(i int) Host {
	names := []string{ControlPlane, "worker", "worker2", "worker3"}
	last := []byte{5, 4, 2, 3}
	second := []byte{10, 101, 102, 103}
	zones := []string{"a", "a", "b", "c"}
	if i >= len(names) {
		b := byte(i) //nolint:gosec // i < MaxNodes
		return Host{
			Name: fmt.Sprintf("worker%d", i), Kind: KindNode,
			Address: netip.AddrFrom4([4]byte{172, 20, 1, b}), Second: netip.AddrFrom4([4]byte{192, 168, 10, 100 + b}),
			Labels: nodeLabels(fmt.Sprintf("worker%d", i), zones[i%len(zones)]),
		}
	}
	mynode := ControlPlane
	if i > 0 {
		mynode = fmt.Sprintf("worker%d", i)
	}
	return Host{
		Name: names[i], Kind: KindNode,
		Address: netip.AddrFrom4([4]byte{172, 20, 0, last[i]}), Second: netip.AddrFrom4([4]byte{192, 168, 10, second[i]}),
		Labels: nodeLabels(mynode, zones[i]),
	}
}

func nodeLabels(mynode, zone string) map[string]string {
	return map[string]string{"mynode": mynode, "topology.kubernetes.io/zone": "ap-northeast-2" + zone}
}

// AddClient adds a client with the next free address from 172.20.0.6 on.
func (p *Plan) AddClient(name string) (*Host, error) { return p.add(name, KindClient) }

// AddRouter adds a router with the next free address, and in the second network the next
// one below 192.168.10.255.
func (p *Plan) AddRouter(name string) (*Host, error) {
	h, err := p.add(name, KindRouter)
	if err == nil {
		h.Second = netip.AddrFrom4([4]byte{192, 168, 10, byte(255 - len(p.Of(KindRouter)))}) //nolint:gosec // at most 64 nodes begin at 101
	}
	return h, err
}

func (p *Plan) add(name string, kind Kind) (*Host, error) {
	if !regexp.MustCompile(`^[a-z][a-z0-9-]{0,14}$`).MatchString(name) {
		return nil, fmt.Errorf("name %q: want a letter and then up to 14 letters, digits or dashes, all lower case", name)
	}
	if p.Host(name) != nil {
		return nil, fmt.Errorf("host %s exists already", name)
	}
	for last := 6; last < 250; last++ {
		a := netip.AddrFrom4([4]byte{172, 20, 0, byte(last)})
		if !p.used(a) {
			h := Host{Name: name, Kind: kind, Address: a}
			if p.dual() {
				h.Address6 = address6(a)
			}
			p.Hosts = append(p.Hosts, h)
			return &p.Hosts[len(p.Hosts)-1], nil
		}
	}
	return nil, fmt.Errorf("no address left for %s", name)
}

func (p *Plan) used(a netip.Addr) bool {
	for i := range p.Hosts {
		if p.Hosts[i].Address == a {
			return true
		}
	}
	return false
}

// Host finds a host by name, nil if there is none.
func (p *Plan) Host(name string) *Host {
	for i := range p.Hosts {
		if p.Hosts[i].Name == name {
			return &p.Hosts[i]
		}
	}
	return nil
}

// Of lists the hosts of a kind in the plan's order.
func (p *Plan) Of(k Kind) []*Host {
	var out []*Host
	for i := range p.Hosts {
		if p.Hosts[i].Kind == k {
			out = append(out, &p.Hosts[i])
		}
	}
	return out
}

// Names joins the names of the hosts of a kind.
func (p *Plan) Names(k Kind) string {
	var names []string
	for _, h := range p.Of(k) {
		names = append(names, h.Name)
	}
	return strings.Join(names, ", ")
}

// MAC is derived from the address as Docker does it: 02:42, then the address.
func (h *Host) MAC() [6]byte {
	a := h.Address.As4()
	return [6]byte{0x02, 0x42, a[0], a[1], a[2], a[3]}
}

// Port is the host's place on the switch. Docker's MAC for 172.20.0.5 is
// 02:42:ac:14:00:05.
func (h *Host) Port() *host.Interface {
	i := &host.Interface{Name: h.Name, MAC: h.MAC(), Addresses: h.prefixes(), Gateways: []netip.Addr{gateway()}}
	if h.Address6.IsValid() {
		i.Gateways = append(i.Gateways, address6(gateway()))
	}
	return i
}

func (h *Host) prefixes() []netip.Prefix {
	out := []netip.Prefix{netip.PrefixFrom(h.Address, 16)}
	if h.Second.IsValid() {
		out = append(out, netip.PrefixFrom(h.Second, 24))
	}
	if h.Address6.IsValid() {
		out = append(out, netip.PrefixFrom(h.Address6, 64))
	}
	return out
}

// addresses are the host's primary addresses, IPv4 first.
func (h *Host) addresses() []string {
	out := []string{h.Address.String()}
	if h.Address6.IsValid() {
		out = append(out, h.Address6.String())
	}
	return out
}

// podCIDRs are the node's pod ranges, IPv4 first.
func (h *Host) podCIDRs() []netip.Prefix {
	return slices.DeleteFunc([]netip.Prefix{h.PodCIDR, h.PodCIDR6}, func(p netip.Prefix) bool { return !p.IsValid() })
}

// Routes lead from one node to the pods of every other.
func (p *Plan) Routes(from string) []host.Route {
	var out []host.Route
	for _, h := range p.Of(KindNode) {
		if h.Name == from {
			continue
		}
		for _, r := range h.podCIDRs() {
			via := h.Address
			if r.Addr().Is6() {
				via = h.Address6
			}
			out = append(out, host.Route{Destination: r, Via: via})
		}
	}
	return out
}

// EtcHosts is the content of every host's /etc/hosts.
func (p *Plan) EtcHosts() string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	for i := range p.Hosts {
		fmt.Fprintf(&b, "%s\t%s\n", p.Hosts[i].Address, p.Hosts[i].Name)
	}
	return b.String()
}

// apiServer is the URL of the Kubernetes API.
func (p *Plan) apiServer() string {
	return fmt.Sprintf("https://%s", netip.AddrPortFrom(p.Host(ControlPlane).Address, apiPort))
}

func registryAddr() netip.AddrPort { return netip.AddrPortFrom(gateway(), registryPort) }

// switchSecond is the gateway's address in the nodes' second network.
func switchSecond() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, 10, 1}), 24)
}
