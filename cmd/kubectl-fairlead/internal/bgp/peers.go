// SPDX-License-Identifier: Apache-2.0

// Package bgp shows the BGP sessions of a cluster's nodes, as their NodeAgents tell of them,
// and the routes that peers were told, as the agents themselves do. It asks nobody itself;
// the commands `bgp peers` and `bgp routes` call it.
package bgp

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// Filter is what to show; empty fields are all.
type Filter struct{ Node, Peer string }

func (f *Filter) shows(node, peer string) bool {
	return (f.Node == "" || f.Node == node) && (f.Peer == "" || f.Peer == peer)
}

// Session is one session of one node.
type Session struct {
	Node string `json:"node"`
	v1alpha1.BGPSessionStatus
}

// Peers are all sessions.
type Peers struct {
	// Sessions by node and peer.
	Sessions []Session `json:"sessions"`
	// Notes are what else there is to know.
	Notes []string `json:"notes,omitempty"`
}

// ForPeers lists the sessions of agents; peers are those that are configured.
func ForPeers(agents []v1alpha1.NodeAgent, peers []v1alpha1.BGPPeer, f Filter) Peers {
	out := Peers{Sessions: []Session{}}
	used := make(map[string]bool)
	for i := range agents {
		for _, s := range agents[i].Status.BGP {
			used[s.Peer] = true
			if f.shows(agents[i].Name, s.Peer) {
				out.Sessions = append(out.Sessions, Session{agents[i].Name, s})
			}
		}
	}
	slices.SortFunc(out.Sessions, func(a, b Session) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Peer, b.Peer))
	})
	for i := range peers {
		if name := peers[i].Name; !used[name] && f.Node == "" && f.shows("", name) {
			out.Notes = append(out.Notes, fmt.Sprintf("no node has a session with BGPPeer %s: its nodeSelectors match none, or no agent has told yet", name))
		}
	}
	slices.Sort(out.Notes)
	return out
}

// Text is the table for people.
func (p Peers) Text() string {
	var b strings.Builder
	if len(p.Sessions) == 0 {
		b.WriteString("no BGP session\n")
	} else {
		table(&b, func(w *tabwriter.Writer) {
			row(w, "NODE", "PEER", "ADDRESS", "ASN", "STATE", "SINCE", "PREFIXES", "BFD", "WHY")
			for i := range p.Sessions {
				s := &p.Sessions[i]
				row(w, s.Node, s.Peer, dash(s.Address), asn(s.ASN), string(s.State), stamp(s.Since), s.Prefixes, dash(s.BFD), dash(why(&s.BGPSessionStatus)))
			}
		})
	}
	for _, n := range p.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	return b.String()
}

// why is what there is to say of a session that is not as it should be.
func why(s *v1alpha1.BGPSessionStatus) string {
	var out []string
	if s.Draining != "" {
		out = append(out, "Draining: "+s.Draining)
	}
	if text := strings.TrimSuffix(strings.Join(nonEmpty(s.Reason, s.Message), ": "), "."); text != "" {
		out = append(out, text)
	}
	return strings.Join(out, "; ")
}

func nonEmpty(in ...string) []string {
	return slices.DeleteFunc(in, func(s string) bool { return s == "" })
}

func asn(n int64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

func dash(s string) string { return cmp.Or(s, "-") }

func stamp(t *metav1.Time) string {
	if t == nil || t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}

func row(w *tabwriter.Writer, cells ...any) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(w, "\t")
		}
		fmt.Fprint(w, c)
	}
	fmt.Fprintln(w)
}

func table(b *strings.Builder, rows func(w *tabwriter.Writer)) {
	w := tabwriter.NewWriter(b, 0, 0, 3, ' ', 0)
	rows(w)
	_ = w.Flush() // a builder takes everything
}
