// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// multiHop says whether BFD packets of the peer come over more than one hop (RFC 5883), as FRR
// decides it: an internal peer that is on no connected network is some hops away as well.
func (r *peerReader) multiHop() bool {
	s := &r.out
	if s.Interface != "" || s.Addr.IsLinkLocalUnicast() {
		return false
	}
	connected := len(r.in.Interfaces) == 0 || r.owns(func(p netip.Prefix) bool { return p.Contains(s.Addr) })
	return s.MultiHop || s.TTLSecurity > 1 || s.Internal() && !connected
}

func (r *peerReader) readBFD() {
	if r.spec.BFDProfile == "" {
		return
	}
	if r.in.Profile == nil {
		r.fault(reason.UnknownProfile, "there is no BFDProfile %q; write it, or remove bfdProfile", r.spec.BFDProfile)
		return
	}
	p := &r.in.Profile.Spec
	bfd := loadbalancer.BFDSession{
		Profile: r.spec.BFDProfile, MinTTL: maxTTL, Strict: p.Strict, Passive: p.PassiveMode != nil && *p.PassiveMode,
		Receive: bfdInterval(p.ReceiveInterval), Transmit: bfdInterval(p.TransmitInterval), Multiplier: bfdMultiplier(p.DetectMultiplier),
	}
	if r.multiHop() {
		bfd.MinTTL = bfdMinTTL(p.MinimumTTL, r.out.TTLSecurity)
	}
	r.out.BFD = bfd
	if p.EchoMode != nil && *p.EchoMode {
		r.remark(reason.FieldNotSupported, "BFDProfile %q: echoMode is not served; the peer is watched without it", r.spec.BFDProfile)
	}
}

const (
	maxTTL = 255
	// What a BFDProfile leaves open: MetalLB's, in milliseconds where they are times.
	defaultBFDInterval   = 300
	defaultBFDMultiplier = 3
	defaultBFDMinTTL     = 254
	minBFDInterval       = 10
	maxBFDInterval       = 60000
	minBFDMultiplier     = 2
)

func bfdInterval(ms *int32) time.Duration {
	n := int32(defaultBFDInterval)
	if ms != nil {
		n = min(max(*ms, minBFDInterval), maxBFDInterval)
	}
	return time.Duration(n) * time.Millisecond
}

func bfdMultiplier(in *int32) uint8 {
	if in == nil {
		return defaultBFDMultiplier
	}
	return uint8(min(max(*in, minBFDMultiplier), 255)) // within bounds
}

// bfdMinTTL is the least TTL of a packet that came over several hops: the profile's, or what
// the number of hops leaves.
func bfdMinTTL(in *int32, hops uint8) uint8 {
	if in != nil {
		return uint8(min(max(*in, 1), maxTTL-1)) // within bounds
	}
	if hops > 1 {
		return maxTTL - (hops - 1)
	}
	return defaultBFDMinTTL
}
