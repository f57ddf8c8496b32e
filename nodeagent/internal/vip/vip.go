// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// Link is the kernel's view of our link: [kernel.Kernel].
type Link interface {
	// VIPLink reads the addresses on our link, and whether there is one.
	VIPLink() ([]netip.Addr, bool, error)
	EnsureVIPLink() error
	AddVIP(addr netip.Addr) error
	RemoveVIP(addr netip.Addr) error
	DeleteVIPLink() error
	// HasVIP says whether an address is on our link, for the price of one request.
	HasVIP(addr netip.Addr) (bool, error)
	// LocalAddrs are on other links, but for those that an agent of ours put there, and
	// those of kube-proxy's own link.
	LocalAddrs() ([]netip.Addr, error)
}

// lookups of one Check: so many addresses are looked for.
const lookups = 32

// ErrElsewhere says that an address is on another link of this node.
var ErrElsewhere = errors.New("another link of this node has the address")

// Result is how things stand after a call.
type Result struct {
	// Repaired addresses were missing, in this call.
	Repaired int
	// Refused are not on the link though they should be, and why.
	Refused map[netip.Addr]error
}

// VIPs are the addresses on our link. They are for one goroutine.
type VIPs struct {
	link Link
	// applied says that there is a plan: want, ascending.
	applied bool
	want    []netip.Addr
	// have is our copy of what is on the link; it is right where known is true.
	have  map[netip.Addr]struct{}
	known bool
	// settled: the last attempt went to its end.
	settled bool
	// refused of the last attempt.
	refused map[netip.Addr]error
	round   int // of Check's lookups
}

// New returns the addresses of the node whose kernel this is. Nothing is read or written
// before the first [VIPs.Apply].
func New(link Link) *VIPs { return &VIPs{link: link, have: make(map[netip.Addr]struct{})} }

// List reads what is on the link: at the start of an agent, what an earlier one left.
func (v *VIPs) List() ([]netip.Addr, error) {
	list, _, err := v.link.VIPLink()
	return list, err //nolint:wrapcheck // says all there is to say
}

// Apply makes the addresses on our link those of want, which nobody may change from then on:
// first it adds, then it removes. The link is made when the first address is. Where one
// cannot be added, the others are, and the result names it; an error means that not all was
// tried. A later call goes on where this one ended.
func (v *VIPs) Apply(ctx context.Context, want []netip.Addr) (Result, error) {
	if !slices.IsSortedFunc(want, netip.Addr.Compare) {
		want = slices.SortedFunc(slices.Values(want), netip.Addr.Compare)
	}
	v.want, v.applied = want, true
	return v.run(ctx)
}

// Check is to be called each second, and when somebody may have removed the link. It looks for
// some of our addresses; if one is missing it reads them all and puts back what is missing.
// It tries again what could not be added.
func (v *VIPs) Check(ctx context.Context) (Result, error) {
	if !v.applied {
		return Result{}, nil
	}
	if v.known {
		if err := v.look(ctx); err != nil {
			return Result{Refused: v.refused}, err
		}
	}
	if v.known && v.settled && len(v.refused) == 0 {
		return Result{}, nil
	}
	return v.run(ctx)
}

// Remove deletes our link with all that is on it.
func (v *VIPs) Remove(context.Context) error {
	v.applied, v.known, v.want, v.refused = false, false, nil, nil
	clear(v.have)
	return v.link.DeleteVIPLink() //nolint:wrapcheck // says all there is to say
}

// look searches for some addresses, evenly spaced, and each time for the next ones.
func (v *VIPs) look(ctx context.Context) error {
	stride := max(1, (len(v.want)+lookups-1)/lookups)
	v.round = (v.round + 1) % stride
	for i := v.round; i < len(v.want); i += stride {
		if err := ctx.Err(); err != nil {
			return err //nolint:wrapcheck // the caller's own
		}
		if _, bound := v.have[v.want[i]]; !bound {
			continue
		}
		there, err := v.link.HasVIP(v.want[i])
		if err != nil {
			return err //nolint:wrapcheck // says all there is to say
		}
		if !there {
			v.known = false
			return nil
		}
	}
	return nil
}

// run brings the link to want.
func (v *VIPs) run(ctx context.Context) (Result, error) {
	v.settled = false
	repaired, err := v.read()
	if err != nil {
		return Result{Refused: v.refused}, err
	}
	wanted := make(map[netip.Addr]struct{}, len(v.want))
	var missing []netip.Addr
	for _, a := range v.want {
		wanted[a] = struct{}{}
		if _, there := v.have[a]; !there {
			missing = append(missing, a)
		}
	}
	var gone []netip.Addr
	for a := range v.have {
		if _, stays := wanted[a]; !stays {
			gone = append(gone, a)
		}
	}
	slices.SortFunc(gone, netip.Addr.Compare)
	v.refused = make(map[netip.Addr]error)
	if err := errors.Join(v.addAll(ctx, missing), v.removeAll(ctx, gone)); err != nil {
		return Result{Repaired: repaired, Refused: v.refused}, err
	}
	v.settled = true
	return Result{Repaired: repaired, Refused: v.refused}, nil
}

// read reads the link where our copy is not known to be right, and counts what is missing
// that we had put there.
func (v *VIPs) read() (int, error) {
	if v.known {
		return 0, nil
	}
	list, _, err := v.link.VIPLink()
	if err != nil {
		return 0, err //nolint:wrapcheck // says all there is to say
	}
	before := v.have
	v.have, v.known = make(map[netip.Addr]struct{}, len(list)), true
	for _, a := range list {
		v.have[a] = struct{}{}
	}
	repaired := 0
	for a := range before {
		if _, there := v.have[a]; !there {
			repaired++
		}
	}
	return repaired, nil
}

// addAll adds addresses, with the link if need be. What fails makes our copy doubtful.
func (v *VIPs) addAll(ctx context.Context, missing []netip.Addr) error {
	if len(missing) == 0 {
		return nil
	}
	elsewhere, err := v.link.LocalAddrs()
	if err != nil {
		return fmt.Errorf("look for addresses on other links: %w", err)
	}
	taken := make(map[netip.Addr]struct{}, len(elsewhere))
	for _, a := range elsewhere {
		taken[a] = struct{}{}
	}
	if err := v.link.EnsureVIPLink(); err != nil {
		v.known = false
		return err //nolint:wrapcheck // says all there is to say
	}
	for _, a := range missing {
		if err := ctx.Err(); err != nil {
			return err //nolint:wrapcheck // the caller's own
		}
		if _, there := taken[a]; there {
			v.refused[a] = ErrElsewhere
			continue
		}
		if err := v.link.AddVIP(a); err != nil {
			v.refused[a], v.known = err, false
			continue
		}
		v.have[a] = struct{}{}
	}
	return nil
}

func (v *VIPs) removeAll(ctx context.Context, gone []netip.Addr) error {
	var errs []error
	for _, a := range gone {
		if err := ctx.Err(); err != nil {
			return err //nolint:wrapcheck // the caller's own
		}
		if err := v.link.RemoveVIP(a); err != nil && !errors.Is(err, kernel.ErrNotFound) {
			errs = append(errs, err)
			v.known = false
			continue
		}
		delete(v.have, a)
	}
	return errors.Join(errs...)
}
