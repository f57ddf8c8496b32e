// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

// ClaimName returns the IPClaim name of an address: IPv4 as it is, IPv6 as eight
// four-digit groups joined by "-", because an object name may hold no ":" and may
// not begin with "-". IPv4-mapped IPv6 addresses are unmapped first; zones are dropped.
func ClaimName(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if a.Is4() {
		return a.String()
	}
	b := a.As16()
	groups := make([]string, 0, 8)
	for i := 0; i < len(b); i += 2 {
		groups = append(groups, hex.EncodeToString(b[i:i+2]))
	}
	return strings.Join(groups, "-")
}

// ParseClaimName is the inverse of [ClaimName]; any other spelling is an error.
func ParseClaimName(name string) (netip.Addr, error) {
	a, err := netip.ParseAddr(strings.ReplaceAll(name, "-", ":"))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("parse claim name %q: %w", name, err)
	}
	if ClaimName(a) != name {
		return netip.Addr{}, fmt.Errorf("parse claim name %q: want %q", name, ClaimName(a))
	}
	return a, nil
}
