// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/cluster"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
)

// AddressReport is the answer for one address.
type AddressReport struct {
	Address string `json:"address"`
	// State is Held, Retained, Releasing, Reserved, HeldBack, Wanted, Free or NotInPool.
	State string `json:"state"`
	// Summary says it in words.
	Summary string `json:"summary"`
	// Holding is the claim, nil when there is none.
	Holding *Holding `json:"holding,omitempty"`
	// AskedForBy are the Services that ask for it, as namespace/name.
	AskedForBy []string `json:"askedForBy,omitempty"`
	Notes      []string `json:"notes,omitempty"`
}

// States of an address.
const (
	StateHeld      = "Held"
	StateRetained  = "Retained"
	StateReleasing = "Releasing"
	StateReserved  = "Reserved"
	StateHeldBack  = "HeldBack"
	StateWanted    = "Wanted"
	StateFree      = "Free"
	StateNotInPool = "NotInPool"
)

// ForAddress explains one address.
func ForAddress(s *cluster.State, a netip.Addr) AddressReport {
	b := newBook(s)
	r := AddressReport{Address: a.String(), AskedForBy: b.askers(a), Notes: slices.Clone(s.Gaps)}
	if c := b.claim(a); c != nil {
		h := b.holding(c)
		r.Holding = &h
		r.State, r.Summary = claimWords(c, h)
	} else {
		r.State, r.Summary = b.unclaimed(a)
		r.Notes = append(r.Notes, b.conflicts(a)...)
	}
	for _, p := range b.sortedPools() {
		if fault := b.set.Fault(p.Name); fault != nil && listed(p.Spec.Addresses, a) {
			r.Notes = append(r.Notes, fmt.Sprintf("pool %q has it, but the pool is not used (%s): %s", p.Name, fault.Reason, fault.Message))
		}
	}
	if whose, ok := b.reserved[a]; ok && r.State != StateReserved {
		r.Notes = append(r.Notes, "it is the address of "+whose)
	}
	return r
}

func claimWords(c *v1alpha1.IPClaim, h Holding) (state, summary string) {
	who := strings.Join(serviceNames(c.Spec.Services), ", ")
	switch c.Spec.Phase {
	case v1alpha1.ClaimRetained:
		return StateRetained, fmt.Sprintf("kept for a Service named %s until %s; delete the IPClaim to free it earlier", who, h.RetainUntil)
	case v1alpha1.ClaimReleasing:
		return StateReleasing, fmt.Sprintf("Service %s had it; it is free as soon as no node can answer for it any more", who)
	case v1alpha1.ClaimBound:
	}
	if c.DeletionTimestamp != nil {
		return StateReleasing, "the claim is being deleted"
	}
	return StateHeld, "held by Service " + who
}

// unclaimed says what an address without a claim is.
func (b *book) unclaimed(a netip.Addr) (state, summary string) {
	p, inPool := b.set.ByAddr(a)
	whose, own := b.reserved[a]
	switch {
	case own && inPool:
		return StateReserved, fmt.Sprintf("pool %q has it, but it is the address of %s and is never handed out", p.Name(), whose)
	case !inPool:
		return StateNotInPool, "no valid IPAddressPool has it"
	}
	if wanted := b.wanted[a]; len(wanted) > 0 {
		return StateWanted, fmt.Sprintf("free, but the status of Service %s shows it, which has no claim yet and gets it before others", wanted[0])
	}
	if why := b.heldBack(p.Name(), a); why != "" {
		return StateHeldBack, fmt.Sprintf("pool %q has it and does not hand it out: %s", p.Name(), why)
	}
	if b.set.Disabled(p.Name()) {
		return StateHeldBack, fmt.Sprintf("pool %q has it and is disabled: it gives no more addresses", p.Name())
	}
	summary = fmt.Sprintf("free, in pool %q", p.Name())
	if spec := b.specs[p.Name()]; !spec.AutoAssign {
		summary += ", which gives addresses only to Services that ask for them (autoAssign is false)"
	}
	return StateFree, summary
}

// heldBack asks the allocator for an address that nobody has: whoever asks would get
// the same refusal.
func (b *book) heldBack(name string, a netip.Addr) string {
	if b.specs[name].Allocation != nil {
		return "" // who asks matters
	}
	req := pool.Request{Families: []pool.Family{pool.FamilyOf(a)}, Addresses: []netip.Addr{a}}
	if _, err := pool.Allocate(b.set, b.ledger, &req); err != nil {
		return err.Message
	}
	return ""
}

func listed(ranges []string, a netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(text string) bool {
		iv, err := pool.ParseInterval(text)
		return err == nil && iv.Contains(a)
	})
}

// askers returns the Services that ask for an address by annotation or spec.
func (b *book) askers(a netip.Addr) []string {
	var out []string
	for i := range b.state.Services {
		svc := &b.state.Services[i]
		asks := slices.Contains(convert.ExternalIPs(svc), a)
		if b.state.Config.Classes.Serves(svc) {
			req, err := convert.Service(svc)
			asks = asks || err == nil && slices.Contains(req.Pool.Addresses, a)
		}
		if asks {
			out = append(out, convert.Key(svc).String())
		}
	}
	slices.Sort(out)
	return out
}
