// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/agents"
	"github.com/fairlead-lb/fairlead/loadbalancer/told"
)

// Route is one route that one node told one peer.
type Route struct {
	Node string `json:"node"`
	Peer string `json:"peer"`
	told.Route
}

// Silent is an address that one node tells nobody.
type Silent struct {
	Node string `json:"node"`
	told.Silent
}

// Routes is what nodes tell.
type Routes struct {
	// Routes by node, peer and prefix.
	Routes []Route `json:"routes"`
	// Silent by node and address; a node that tells nobody anything has one without address.
	Silent []Silent     `json:"silent,omitempty"`
	Gaps   []agents.Gap `json:"gaps,omitempty"`
}

// ForRoutes lists what agents tell.
func ForRoutes(reports []told.Report, gaps []agents.Gap, f Filter) Routes {
	out := Routes{Routes: []Route{}, Gaps: gaps}
	for i := range reports {
		r := &reports[i]
		for j := range r.Sessions {
			s := &r.Sessions[j]
			if !f.shows(r.Node, s.Peer) {
				continue
			}
			for _, one := range s.Routes {
				out.Routes = append(out.Routes, Route{r.Node, s.Peer, one})
			}
		}
		if r.Reason != "" {
			out.Silent = append(out.Silent, Silent{r.Node, told.Silent{Reason: r.Reason}})
		}
		for _, one := range r.Silent {
			out.Silent = append(out.Silent, Silent{r.Node, one})
		}
	}
	return out
}

// Text is the table for people.
func (r Routes) Text() string {
	var b strings.Builder
	if len(r.Routes) == 0 {
		b.WriteString("no route is told\n")
	} else {
		table(&b, func(w *tabwriter.Writer) {
			row(w, "NODE", "PEER", "PREFIX", "LOCALPREF", "MED", "PREPEND", "COMMUNITIES", "BANDWIDTH", "ADDRESSES")
			for i := range r.Routes {
				l := &r.Routes[i]
				row(w, l.Node, l.Peer, l.Prefix, figure(l.LocalPref), figure(l.MED), count(l.Prepend), dash(strings.Join(l.Communities, ",")),
					count(l.LinkBandwidth), addresses(l.Prefix, l.Addresses))
			}
		})
	}
	for _, s := range r.Silent {
		what := s.Address
		if what == "" {
			what = "anything"
		}
		fmt.Fprintf(&b, "%s tells nobody %s: %s\n", s.Node, what, s.Reason)
	}
	for _, g := range r.Gaps {
		fmt.Fprintf(&b, "%s is not in it: %s\n", g.Node, g.Cause)
	}
	return b.String()
}

func figure(n *uint32) string {
	if n == nil {
		return "-"
	}
	return fmt.Sprint(*n)
}

func count[N int | uint32](n N) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

// maxShown is how many addresses of an aggregate are shown.
const maxShown = 3

// addresses that a route is for, where the prefix is not one itself.
func addresses(prefix string, list []string) string {
	switch {
	case len(list) == 1 && strings.HasPrefix(prefix, list[0]+"/"):
		return "-"
	case len(list) > maxShown:
		return fmt.Sprintf("%s and %d more", strings.Join(list[:maxShown], ","), len(list)-maxShown)
	default:
		return dash(strings.Join(list, ","))
	}
}
