// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"sigs.k8s.io/knftables"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/guard"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel/kerneltest"
)

// packets is a kernel in which it is looked, after each operation of the data plane, what
// would become of a new connection to each address and port.
type packets struct {
	*kerneltest.Fake

	t   *testing.T
	nft *knftables.Fake
	// node is the node's own address.
	node netip.Addr
	// kubeProxy serves these, in its iptables or nftables mode.
	kubeProxy map[loadbalancer.VirtualServerKey]bool
	// look is called after each operation.
	look func(op string)
	// steps are the operations so far, as in log; at crashAt the agent dies, if that is not 0.
	steps   int
	crashAt int
	crashed bool
	log     []string
}

func newPackets(t *testing.T) *packets {
	t.Helper()
	p := &packets{
		Fake: kerneltest.New(), t: t, nft: knftables.NewFake(knftables.InetFamily, guard.Table), node: netip.MustParseAddr("10.0.0.1"),
		kubeProxy: make(map[loadbalancer.VirtualServerKey]bool), look: func(string) {},
	}
	p.SetAddrs(p.node)
	return p
}

// step is one operation: nothing happens any more from the one on at which the agent dies.
func (p *packets) step(op string, do func() error) error {
	p.steps++
	if p.crashAt > 0 && p.steps >= p.crashAt {
		return kerneltest.ErrInjected
	}
	err := do()
	p.log = append(p.log, fmt.Sprint(p.steps, " ", op, " ", err))
	p.look(op)
	return err
}

func (p *packets) AddServer(v loadbalancer.VirtualServer) error {
	return p.step(fmt.Sprint("AddServer ", v.VirtualServerKey), func() error { return p.Fake.AddServer(v) })
}

func (p *packets) UpdateServer(v loadbalancer.VirtualServer) error {
	return p.step(fmt.Sprint("UpdateServer ", v.VirtualServerKey), func() error { return p.Fake.UpdateServer(v) })
}

func (p *packets) DeleteServer(key loadbalancer.VirtualServerKey) error {
	return p.step(fmt.Sprint("DeleteServer ", key), func() error { return p.Fake.DeleteServer(key) })
}

func (p *packets) AddReal(key loadbalancer.VirtualServerKey, r loadbalancer.RealServer) error {
	return p.step(fmt.Sprint("AddReal ", key, r), func() error { return p.Fake.AddReal(key, r) })
}

func (p *packets) UpdateReal(key loadbalancer.VirtualServerKey, r loadbalancer.RealServer) error {
	return p.step(fmt.Sprint("UpdateReal ", key, r), func() error { return p.Fake.UpdateReal(key, r) })
}

func (p *packets) DeleteReal(key loadbalancer.VirtualServerKey, r loadbalancer.RealServerKey) error {
	return p.step(fmt.Sprint("DeleteReal ", key, r), func() error { return p.Fake.DeleteReal(key, r) })
}

func (p *packets) AddVIP(a netip.Addr) error {
	return p.step(fmt.Sprint("AddVIP ", a), func() error { return p.Fake.AddVIP(a) })
}

func (p *packets) RemoveVIP(a netip.Addr) error {
	return p.step(fmt.Sprint("RemoveVIP ", a), func() error { return p.Fake.RemoveVIP(a) })
}

func (p *packets) DeleteVIPLink() error { return p.step("DeleteVIPLink", p.Fake.DeleteVIPLink) }

// packetNFT are nftables of such a kernel.
type packetNFT struct {
	*knftables.Fake
	p *packets
}

func (n packetNFT) Run(ctx context.Context, tx *knftables.Transaction) error {
	return n.p.step("nft", func() error {
		n.p.ChangeNFT()
		return n.Fake.Run(ctx, tx)
	})
}

func (p *packets) set(name string) map[string]bool {
	p.nft.RLock()
	defer p.nft.RUnlock()
	out := make(map[string]bool)
	if p.nft.Table == nil || p.nft.Table.Sets[name] == nil {
		return out
	}
	for _, e := range p.nft.Table.Sets[name].Elements {
		out[fmt.Sprint(e.Key)] = true
	}
	return out
}

// The fates of the first packet of a connection.
const (
	toKubeProxy = "to kube-proxy" // and from there to a pod
	toIPVS      = "to IPVS"       // and from there to a pod
	unmarked    = "to IPVS without the guard's knowledge"
	noPod       = "refused: no pod serves it"
	waiting     = "dropped"
	refused     = "refused"
	open        = "to the node itself"
)

// fates says what becomes of a connection from another host to each key.
func (p *packets) fates(keys []loadbalancer.VirtualServerKey) map[loadbalancer.VirtualServerKey]string {
	ours, foreign, served, waits := p.set("vips4"), p.set("foreign4"), p.set("served4"), p.set("waits4")
	link, _, err := p.VIPLink()
	if err != nil {
		p.t.Fatal(err)
	}
	list, err := p.List()
	if err != nil {
		p.t.Fatal(err)
	}
	servers := make(map[loadbalancer.VirtualServerKey]bool)
	for i := range list {
		servers[list[i].VirtualServerKey] = false
		for _, r := range list[i].Reals {
			servers[list[i].VirtualServerKey] = servers[list[i].VirtualServerKey] || r.Weight > 0
		}
	}
	out := make(map[loadbalancer.VirtualServerKey]string, len(keys))
	for _, k := range keys {
		addr, key := fmt.Sprint([]string{k.Addr.String()}), fmt.Sprint([]string{k.Addr.String(), "tcp", fmt.Sprint(k.Port)})
		serves, programmed := servers[k]
		switch {
		case !ours[addr] && !foreign[key] && p.kubeProxy[k]:
			out[k] = toKubeProxy
		case k.Addr != p.node && !slices.Contains(link, k.Addr):
			out[k] = waiting
		case programmed && serves && served[key]:
			out[k] = toIPVS
		case programmed && serves:
			out[k] = unmarked
		case programmed:
			out[k] = noPod
		case waits[key]:
			out[k] = waiting
		case ours[addr]:
			out[k] = refused
		default:
			out[k] = open
		}
	}
	return out
}
