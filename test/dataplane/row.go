// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

// Row is one combination of the matrix: a Service, asked by one protocol.
type Row struct {
	Mode    Mode
	Service *Service
	Proto   Protocol
	// To is the Service's address, Owner the node that announces it.
	To    netip.Addr
	Owner *rig.Node
}

// Name says what the row combines.
func (r *Row) Name() string {
	return fmt.Sprintf("%s/%s/%s", r.Mode, r.Service.Name, r.Proto)
}

// Case is one place to ask from, and what must happen.
type Case struct {
	Name string
	From Place
	// Pods that must each answer, and nobody else; none: nobody may.
	Pods []*Pod
	// Sources that a pod may see.
	Sources map[*Pod][]netip.Addr
}

// tries of a case: enough for each of two pods to be among them by any fair choice, which
// it is with all but one in half a million.
const tries = 20

// Cases of a row in a world, by the words of the design:
//
//   - from outside under policy Cluster every ready pod may answer, through whichever node;
//     a pod on that node sees the client, one elsewhere the node;
//   - through another node's node port that node may choose again, and speaks for the client;
//   - from outside under policy Local only pods of the node answer, and see the client;
//   - from within the cluster every ready pod may answer whatever the policy, and sees the
//     node of who asks, also where a pod asks itself.
func (r *Row) Cases(w *World) []Case {
	var out []Case
	nodes := w.Rig.Nodes()
	out = append(out, r.outside(w, "outside", w.Client, w.Client, r.Owner))
	for i, n := range nodes {
		out = append(out, r.outside(w, "outside through "+n.Name(), w.Via[i], w.Via[i], n))
	}
	out = append(out,
		r.inside("pod beside a backend", w.Near, nodes[0]),
		r.inside("pod on a node without backends", w.Far, nodes[2]),
		r.inside("node with a backend", nodes[1], nodes[1]),
		r.inside("node without backends", nodes[2], nodes[2]),
		// It asks until it has answered itself.
		r.inside("backend itself", w.A, nodes[0]),
	)
	return out
}

// client has addresses.
type client interface {
	IPv4() netip.Addr
	IPv6() netip.Addr
}

func (r *Row) outside(w *World, name string, from Place, c client, through *rig.Node) Case {
	self := c.IPv4()
	if r.To.Is6() {
		self = c.IPv6()
	}
	out := Case{Name: name, From: from, Sources: map[*Pod][]netip.Addr{}}
	for _, p := range r.Service.Pods {
		local := p.Node == through
		if r.Service.Local && !local {
			continue
		}
		out.Pods = append(out.Pods, p)
		switch {
		case r.Service.LeaveToProxy && r.Service.Local:
			out.Sources[p] = []netip.Addr{self}
		case r.Service.LeaveToProxy:
			out.Sources[p] = NodeAddresses(through)
		case r.Service.Local:
			out.Sources[p] = []netip.Addr{self}
		case r.Service.NodePort:
			for _, n := range w.Rig.Nodes() {
				out.Sources[p] = append(out.Sources[p], NodeAddresses(n)...)
			}
			if local {
				out.Sources[p] = append(out.Sources[p], self)
			}
		case local:
			out.Sources[p] = []netip.Addr{self}
		default:
			out.Sources[p] = NodeAddresses(through)
		}
	}
	return out
}

func (r *Row) inside(name string, from Place, on *rig.Node) Case {
	out := Case{Name: name, From: from, Sources: map[*Pod][]netip.Addr{}}
	pods := r.Service.Pods
	asks, isPod := from.(*Pod)
	// In ipvs mode, kube-proxy keeps clients in the cluster to the node's pods as well, if it
	// has any; else to all (syncEndpoint). Only the node itself gets no answer then: its
	// source is the Service's address, which is on its link kube-ipvs0.
	ipvsLocal := r.Mode == IPVS && r.Service.LeaveToProxy && r.Service.Local
	if ipvsLocal {
		here := slices.DeleteFunc(slices.Clone(pods), func(p *Pod) bool { return p.Node != on })
		if len(here) > 0 || !isPod {
			pods = here
		}
	}
	for _, p := range pods {
		out.Pods = append(out.Pods, p)
		out.Sources[p] = NodeAddresses(on)
		if ipvsLocal && !isPod {
			out.Sources[p] = append(out.Sources[p], r.To)
		}
		if isPod && r.Service.LeaveToProxy && asks != p {
			// kube-proxy leaves a pod its address where it can.
			out.Sources[p] = append(out.Sources[p], asks.IPv4, asks.IPv6)
		}
	}
	return out
}

// Check asks until every pod has answered that must, and a few times more.
func (r *Row) Check(ctx context.Context, c *Case) error {
	to := netip.AddrPortFrom(r.To, servicePort)
	if len(c.Pods) == 0 {
		return silent(ctx, c.From, r.Proto, to)
	}
	seen := map[string]int{}
	for n := range tries {
		a, err := Ask(ctx, c.From, r.Proto, to)
		if err != nil {
			return fmt.Errorf("question %d: %w (before: %v)", n+1, err, seen)
		}
		seen[a.Pod]++
		i := slices.IndexFunc(c.Pods, func(p *Pod) bool { return p.Name == a.Pod })
		if i < 0 {
			return fmt.Errorf("question %d: pod %s answers, want one of %s", n+1, a.Pod, names(c.Pods))
		}
		if !slices.Contains(c.Sources[c.Pods[i]], a.Source) {
			return fmt.Errorf("question %d: pod %s sees %s, want one of %v", n+1, a.Pod, a.Source, c.Sources[c.Pods[i]])
		}
		if len(seen) == len(c.Pods) && n >= 2*len(c.Pods) {
			return nil
		}
	}
	return fmt.Errorf("only %v of %s answer in %d questions", seen, names(c.Pods), tries)
}

func names(pods []*Pod) string {
	var out []string
	for _, p := range pods {
		out = append(out, p.Name)
	}
	return strings.Join(out, " and ")
}

// silent returns nil if nobody answers.
func silent(ctx context.Context, from Place, proto Protocol, to netip.AddrPort) error {
	a, err := Ask(ctx, from, proto, to)
	if errors.Is(err, ErrRefused) || errors.Is(err, ErrSilence) {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("pod %s answers where nobody may", a.Pod)
}
