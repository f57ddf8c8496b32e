// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// page is a text of indented names and values.
type page struct {
	strings.Builder
	indent string
}

func (p *page) line(format string, args ...any) {
	fmt.Fprintf(p, "%s%s\n", p.indent, fmt.Sprintf(format, args...))
}

// value writes a name with its value, nothing for an empty one.
func (p *page) value(name, value string) {
	if value != "" {
		p.line("%-16s %s", name+":", value)
	}
}

// list writes a name and one line per entry.
func (p *page) list(name string, entries []string) {
	for i, e := range entries {
		if i > 0 {
			p.line("%-16s %s", "", e)
			continue
		}
		p.value(name, e)
	}
}

func (p *page) in(f func()) {
	old := p.indent
	p.indent += "  "
	f()
	p.indent = old
}

func (p *page) conditions(in []Condition) {
	for _, c := range in {
		p.value(c.Type, c.Status+" ("+c.Reason+") "+c.Message)
	}
}

func (p *page) notes(in []string) {
	for _, n := range in {
		p.line("note: %s", n)
	}
}

func (p *page) holding(h *Holding) {
	p.value("pool", h.Pool)
	if h.Claim != "" {
		p.value("claim", h.Claim+", "+h.Phase)
	}
	p.list("services", h.Services)
	p.value("sharing key", h.SharingKey)
	p.value("retain for", h.RetainFor)
	p.value("retained until", h.RetainUntil)
	p.value("releasing since", h.ReleasingSince)
	if h.Group != "" {
		p.value("group", h.Group+" (one node announces all of it)")
	}
	if h.Phase == "Bound" {
		owner := h.Owner
		if owner == "" {
			owner = "no node"
		}
		p.value("announced by", owner)
	}
	p.list("conflict", h.Conflicts)
	p.value("successors", strings.Join(h.Successors, ", "))
	p.value("advertised by", strings.Join(h.Advertisements, ", "))
}

// number writes a count, which the allocator caps.
func number(n int64) string {
	if n == math.MaxInt64 {
		return "2^63 or more"
	}
	return strconv.FormatInt(n, 10)
}

// Text writes the answer for people.
func (r ServiceReport) Text() string {
	var p page
	p.line("Service %s", r.Service)
	p.in(func() {
		if r.NotServed != "" {
			p.line("Fairlead does not serve it: %s", r.NotServed)
		}
		for i := range r.Addresses {
			a := &r.Addresses[i]
			p.line("address %s", a.Address)
			p.in(func() {
				why := a.Why
				if a.Rule != "" {
					why = a.Rule + ": " + a.Why
				}
				p.value("why", why)
				p.holding(&a.Holding)
			})
		}
		if r.Forwarding != nil {
			p.forwarding(r.Forwarding)
		}
		if r.BGP != nil {
			p.bgp(r.BGP)
		}
		if r.Absent != nil {
			p.absence(r)
		}
		p.conditions(r.Conditions)
		p.notes(r.Notes)
	})
	return p.String()
}

func (p *page) forwarding(f *Forwarding) {
	head := "forwarded by " + f.Asked
	if f.IPMode != "" {
		head += ", ipMode " + f.IPMode
	}
	p.line("%s", head)
	p.in(func() {
		p.value("how", f.How)
		p.value("sources", strings.Join(f.SourceRanges, ", "))
		p.list("nodes' own", f.NodeAddresses)
		p.list("nodes", f.Nodes)
	})
}

func (p *page) absence(r ServiceReport) {
	head := "no address"
	if len(r.Addresses) > 0 {
		head = "not every address"
	}
	p.line("%s: %s: %s", head, r.Absent.Reason, r.Absent.Message)
	if len(r.Absent.Pools) == 0 {
		return
	}
	p.line("what each pool would do:")
	p.in(func() {
		for _, v := range r.Absent.Pools {
			yes := "no"
			if v.Serves {
				yes = "yes"
			}
			p.list(fmt.Sprintf("%s %s", v.Pool, v.Family), prefixed(yes+": ", v.Because))
		}
	})
}

func prefixed(prefix string, in []string) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = prefix + s
	}
	return out
}

// Text writes the answer for people.
func (r AddressReport) Text() string {
	var p page
	p.line("Address %s: %s", r.Address, r.State)
	p.in(func() {
		p.line("%s", r.Summary)
		if r.Holding != nil {
			p.holding(r.Holding)
		}
		p.list("asked for by", r.AskedForBy)
		p.notes(r.Notes)
	})
	return p.String()
}

// Text writes the answer for people.
func (r PoolReport) Text() string {
	var p page
	p.line("IPAddressPool %s", r.Pool)
	p.in(func() {
		p.line("%s", r.Summary)
		p.value("rank", r.Rank)
		for _, f := range r.Families {
			next := ""
			if f.Next != "" {
				next = ", the next is " + f.Next
			}
			p.value(f.Family, fmt.Sprintf("%s in all, %d held, %s free%s", number(f.Total), f.Held, number(f.Free), next))
		}
		p.value("reclaim", r.Reclaim)
		p.list("namespaces", r.Tenants)
		p.list("advertised by", r.Advertisements)
		p.conditions(r.Conditions)
		if len(r.Claims) > 0 {
			p.line("claims:")
		}
		p.in(func() {
			for _, c := range r.Claims {
				p.line("%-39s %-9s %s", c.Address, c.Phase, strings.Join(c.Services, ", "))
			}
		})
		p.notes(r.Notes)
	})
	return p.String()
}
