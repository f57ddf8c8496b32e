// SPDX-License-Identifier: Apache-2.0

// Package surroundings finds out what else forwards packets on this node, and whether that
// speaks against our IPVS data plane: in what mode kube-proxy runs, whose network the pods
// use, and whether a host firewall drops what is sent to addresses of the node. It only
// looks; it must change nothing. The agent's data plane calls it before it programs
// anything, and now and then afterwards.
package surroundings

import (
	"context"
	"errors"
	"net/netip"
	"strings"

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
	nft   func(ctx context.Context, args ...string) ([]byte, error)
	get   func(ctx context.Context, path string) ([]byte, error)
}

// New returns a looker at this node, in whose network namespace it must be called. links
// lists the names of its links.
func New(links func() ([]string, error)) *Looker {
	return &Looker{links: links, nft: runNFT, get: getKubeProxy}
}

// Look looks once: two requests to kube-proxy, and one run of nft for each table that may
// hold a firewall. An error means that something could not be read; the report then holds
// the rest.
func (l *Looker) Look(ctx context.Context) (Report, error) {
	names, linkErr := l.links()
	tables, tableErr := l.tables(ctx)
	r := Report{KubeProxy: l.mode(ctx, names, tables), CNI: cni(names)}
	if r.KubeProxy == IPVS {
		r.ExcludeCIDRs = l.excluded(ctx)
	}
	wall, wallErr := l.firewall(ctx, tables)
	switch {
	case r.CNI != "":
		r.Against = reason.CNIBypassed
		r.Message = r.CNI + " does not apply network policies to what the node itself sends to its pods, and that is what IPVS forwards; " +
			"kube-proxy forwards here; the agent's --data-plane=ipvs overrides this"
	case wall != "":
		r.Against = reason.HostFirewall
		r.Message = "the chain " + wall + " drops packets to addresses of this node; accept those to the pools there, for example by " +
			"\"ip daddr <pool> accept\"; kube-proxy forwards until then"
	}
	return r, errors.Join(linkErr, tableErr, wallErr)
}

// cni names a pod network whose policies miss what IPVS forwards: Calico polices what is
// forwarded and what comes from its pods, not what the host sends; Cilium takes packets
// before the kernel's own forwarding does, and lets the host in.
func cni(links []string) string {
	for _, name := range links {
		switch {
		case strings.HasPrefix(name, "cali"), name == "vxlan.calico":
			return "calico"
		case name == "cilium_host":
			return "cilium"
		}
	}
	return ""
}
