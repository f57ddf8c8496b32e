// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// What a BGPPeer leaves open.
const (
	defaultPort     = 179
	defaultHold     = 90 * time.Second
	defaultConnect  = 10 * time.Second
	defaultIdleHold = time.Second
	// keepalives is how many of them a hold time has (RFC 4271 §4.4).
	keepalives = 3
)

const (
	// minHold is the least hold time but 0 (RFC 4271 §4.2); both timers are whole seconds there.
	minHold = 3 * time.Second
	maxHold = 65535 * time.Second
	// maxTimer bounds the timers that are not on the wire.
	maxTimer = 65535 * time.Second
	// asTrans stands for an AS number of more than 16 bits (RFC 6793 §9).
	asTrans = 23456
	// maxPassword is what the kernel holds of a TCP-MD5 key, in bytes (TCP_MD5SIG_MAXKEYLEN).
	maxPassword = 80
	// maxInterface is the longest name of a link, in bytes (IFNAMSIZ).
	maxInterface = 15
)

// PeerInput is a BGPPeer together with the node that is to have the session.
type PeerInput struct {
	Peer *v1alpha1.BGPPeer
	// Profile is the BFDProfile that the peer names, nil where there is none.
	Profile *v1alpha1.BFDProfile
	// Node that the session begins at, with the labels and annotations that selectors and
	// templates read.
	Node                loadbalancer.Node
	Labels, Annotations map[string]string
	// Interfaces of the node, which say whether it has a source address and whether a peer is
	// on a connected network; none: not known, and then neither is asked.
	Interfaces []loadbalancer.Interface
	// Password is what passwordSecret holds; PasswordErr is why that cannot be told.
	Password    string
	PasswordErr error
}

// NodeAnnotation says whether a BGPPeer may take a value from a Node's annotation of that
// name: other annotations are not kept in memory.
func NodeAnnotation(key string) bool {
	return strings.HasPrefix(key, v1alpha1.PrefixFairlead) || strings.HasPrefix(key, "bgp.")
}

// BGPSession converts a BGPPeer for one node. It is selected where its nodeSelectors match and
// where the node has its source address. It is usable unless a fault keeps it out: a session
// that is not wholly as it is configured would be another one. The faults are all there are.
func BGPSession(in PeerInput) (s loadbalancer.BGPSession, selected bool, faults []loadbalancer.BGPFault, usable bool) {
	r := peerReader{in: in, spec: &in.Peer.Spec, usable: true}
	r.out.Peer = in.Peer.Name
	nodes, err := selectors("nodeSelectors", r.spec.NodeSelectors)
	if err != nil {
		r.fault(reason.InvalidSelector, "%v", err)
		return r.out, false, r.faults, false
	}
	if len(nodes) > 0 && !anyMatches(nodes, in.Labels) {
		return r.out, false, nil, false
	}
	r.readASNs()
	r.readAddresses()
	if r.elsewhere {
		return r.out, false, nil, false
	}
	r.readPassive()
	r.readTimers()
	r.readRouterID()
	r.readPassword()
	r.readHops()
	r.readFamilies()
	r.readBFD()
	if r.spec.VRF != "" {
		r.fault(reason.VRFNotSupported, "vrf %q: sessions in a VRF are not served; remove the field, or let a router outside the VRF pass the routes on", r.spec.VRF)
	}
	return r.out, true, r.faults, r.usable
}

// peerReader reads one BGPPeer.
type peerReader struct {
	in     PeerInput
	spec   *v1alpha1.BGPPeerSpec
	out    loadbalancer.BGPSession
	faults []loadbalancer.BGPFault
	usable bool
	// elsewhere says that the session is another node's.
	elsewhere bool
}

// fault keeps the peer out of use.
func (r *peerReader) fault(why reason.Reason, format string, args ...any) {
	r.usable = false
	r.remark(why, format, args...)
}

// remark leaves the peer in use.
func (r *peerReader) remark(why reason.Reason, format string, args ...any) {
	r.faults = append(r.faults, loadbalancer.BGPFault{Peer: r.out.Peer, Reason: why.String(), Message: fmt.Sprintf(format, args...)})
}

func (r *peerReader) invalid(format string, args ...any) {
	r.fault(reason.InvalidPeer, format, args...)
}

// template reads a value from the Node.
func (r *peerReader) template(field string, v *v1alpha1.NodeValue) (string, bool) {
	kind, key, from := "label", v.Label, r.in.Labels
	if v.Annotation != "" {
		kind, key, from = "annotation", v.Annotation, r.in.Annotations
	}
	if v.Annotation != "" && !NodeAnnotation(key) {
		r.invalid("%s: annotation %q is not read; it must begin with %s or bgp.", field, key, v1alpha1.PrefixFairlead)
		return "", false
	}
	value := strings.TrimSpace(from[key])
	if value == "" {
		r.invalid("%s: node %s has no %s %q", field, r.in.Node.Name, kind, key)
		return "", false
	}
	return value, true
}

func (r *peerReader) readASNs() {
	r.out.MyASN = r.asn("myASN", r.spec.MyASN, r.spec.MyASNFrom)
	r.out.LocalASN = clamp32(r.spec.LocalASN)
	if r.out.LocalASN == r.out.MyASN {
		r.out.LocalASN = 0
	}
	switch r.spec.DynamicASN {
	case "internal":
		r.out.Dynamic = loadbalancer.InternalASN
	case "external":
		r.out.Dynamic = loadbalancer.ExternalASN
	case "":
		r.out.PeerASN = r.asn("peerASN", r.spec.PeerASN, r.spec.PeerASNFrom)
	default:
		r.invalid("dynamicASN: %q is neither internal nor external; write one of them", r.spec.DynamicASN)
	}
}

// asn reads an AS number that is given or is on the Node. Both 0 and 23456 (AS_TRANS,
// RFC 6793 §9) are nobody's.
func (r *peerReader) asn(field string, given int64, from *v1alpha1.NodeValue) uint32 {
	n := clamp32(given)
	if from != nil {
		text, ok := r.template(field+"From", from)
		if !ok {
			return 0
		}
		var err error
		if n, err = parseASN(text); err != nil {
			r.invalid("%sFrom: node %s: %v", field, r.in.Node.Name, err)
			return 0
		}
	}
	if n == 0 || n == asTrans {
		r.invalid("%s: %d is nobody's AS number; write the one that is meant", field, n)
	}
	return n
}

func (r *peerReader) readAddresses() {
	r.out.Interface, r.out.Port = r.spec.Interface, defaultPort
	if r.spec.PeerPort > 0 && r.spec.PeerPort <= maxPort {
		r.out.Port = uint16(r.spec.PeerPort) // checked
	}
	text, field := r.spec.PeerAddress, "peerAddress"
	if r.spec.PeerAddressFrom != nil {
		field = "peerAddressFrom"
		var ok bool
		if text, ok = r.template(field, r.spec.PeerAddressFrom); !ok {
			return
		}
	}
	switch {
	case text == "" && r.spec.Interface == "":
		r.invalid("one of peerAddress, peerAddressFrom and interface is missing")
	case text != "" && r.spec.Interface != "":
		r.invalid("%s and interface do not go together; remove one of them", field)
	case text != "":
		addr, err := parsePeer(text)
		if err != nil {
			r.invalid("%s: %v", field, err)
			return
		}
		r.out.Addr = addr
	default:
		r.readInterface()
		return
	}
	r.readSource()
}

// readInterface checks what goes with a router that is found on a link: it is one hop away,
// and both addresses of the session are link-local.
func (r *peerReader) readInterface() {
	switch {
	case len(r.spec.Interface) > maxInterface:
		r.invalid("interface: %q is longer than %d bytes", r.spec.Interface, maxInterface)
	case r.spec.SourceAddress != "":
		r.invalid("sourceAddress and interface do not go together: the session has the link-local address of the interface; remove one of them")
	case r.spec.EBGPMultiHop:
		r.invalid("ebgpMultiHop and interface do not go together: the router is on the link; remove one of them")
	case r.spec.TTLSecurityHops > 1:
		r.invalid("ttlSecurityHops: %d and interface do not go together: the router is on the link; write 1", r.spec.TTLSecurityHops)
	}
}

// parsePeer reads a router's address. One on a link alone needs the link's name behind it.
func parsePeer(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil || a.Is4In6():
		return netip.Addr{}, fmt.Errorf("%q is not an IP address", text)
	case a.IsUnspecified() || a.IsMulticast():
		return netip.Addr{}, fmt.Errorf("%s is no router's address", a)
	case a.Is6() && a.IsLinkLocalUnicast() && a.Zone() == "":
		return netip.Addr{}, fmt.Errorf("%s is link-local; write the node's interface behind it: %s%%eth0", a, a)
	case !a.IsLinkLocalUnicast() && a.Zone() != "":
		return netip.Addr{}, fmt.Errorf("%s is not link-local; write it without %%%s", text, a.Zone())
	}
	return a, nil
}

func (r *peerReader) readSource() {
	if r.spec.SourceAddress == "" {
		return
	}
	a, err := netip.ParseAddr(r.spec.SourceAddress)
	switch {
	case err != nil || a.Is4In6() || a.Zone() != "":
		r.invalid("sourceAddress: %q is not an IP address", r.spec.SourceAddress)
		return
	case r.out.Addr.IsValid() && a.Is4() != r.out.Addr.Is4():
		r.invalid("sourceAddress: %s and the peer %s are of different IP families", a, r.out.Addr)
		return
	}
	r.out.Source = a
	r.elsewhere = len(r.in.Interfaces) > 0 && !r.owns(func(p netip.Prefix) bool { return p.Addr() == a })
}

// readPassive refuses what only who connects has, as the API server does.
func (r *peerReader) readPassive() {
	if r.out.Passive = r.spec.Passive; !r.out.Passive {
		return
	}
	switch {
	case r.spec.Interface != "":
		r.invalid("passive needs the peer's address, not an interface; write peerAddress")
	case r.out.Port != defaultPort:
		r.invalid("passive and peerPort do not go together, as nodes do not connect to such a peer; remove one of them")
	case r.spec.ConnectTime != nil:
		r.invalid("passive and connectTime do not go together, as nodes do not connect to such a peer; remove one of them")
	}
}

// owns says whether some prefix of the node's interfaces is such.
func (r *peerReader) owns(such func(netip.Prefix) bool) bool {
	return slices.ContainsFunc(r.in.Interfaces, func(itf loadbalancer.Interface) bool { return slices.ContainsFunc(itf.Prefixes, such) })
}

func (r *peerReader) readTimers() {
	s := &r.out
	s.Hold = given(r.spec.HoldTime, defaultHold)
	s.Keepalive = given(r.spec.KeepaliveTime, s.Hold/keepalives)
	s.Connect = given(r.spec.ConnectTime, defaultConnect)
	s.IdleHold = given(r.spec.IdleHoldTime, defaultIdleHold)
	if s.Hold != 0 && (s.Hold < minHold || s.Hold > maxHold || s.Hold%time.Second != 0) {
		r.invalid("holdTime: %s; write 0s, or whole seconds from %s to %s", s.Hold, minHold, maxHold)
		return
	}
	switch {
	case s.Hold == 0 && r.spec.KeepaliveTime != nil && s.Keepalive != 0:
		r.invalid("keepaliveTime: %s goes with no holdTime of 0s, which means that no keepalives are sent", s.Keepalive)
	case s.Hold != 0 && (s.Keepalive < time.Second || s.Keepalive > s.Hold):
		r.invalid("keepaliveTime: %s; write a time from 1s to the hold time, %s", s.Keepalive, s.Hold)
	}
	// The timer has a resolution of a second.
	s.Keepalive = s.Keepalive.Truncate(time.Second)
	for _, t := range []struct {
		field string
		is    time.Duration
	}{{"connectTime", s.Connect}, {"idleHoldTime", s.IdleHold}} {
		if t.is < time.Second || t.is > maxTimer {
			r.invalid("%s: %s; write a time from 1s to %s", t.field, t.is, maxTimer)
		}
	}
}

func given(d *metav1.Duration, otherwise time.Duration) time.Duration {
	if d == nil {
		return otherwise
	}
	return d.Duration
}

// readRouterID reads the BGP identifier: any number but 0, in the form of an IPv4 address,
// that no other speaker of the AS has (RFC 6286 §2.1).
func (r *peerReader) readRouterID() {
	if r.spec.RouterID != "" {
		id, err := netip.ParseAddr(r.spec.RouterID)
		if err != nil || !id.Is4() || id.IsUnspecified() {
			r.invalid("routerID: %q is not in the form of an IPv4 address", r.spec.RouterID)
			return
		}
		r.out.RouterID = id
		return
	}
	for _, a := range slices.Concat(r.in.Node.InternalIPs, r.in.Node.Addrs) {
		if a.Is4() && !a.IsUnspecified() {
			r.out.RouterID = a
			return
		}
	}
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(r.in.Node.Name)) // never fails (hash.Hash)
	var id [4]byte
	copy(id[:], sum.Sum(nil))
	id[3] |= 1 // not 0
	r.out.RouterID = netip.AddrFrom4(id)
}

func (r *peerReader) readPassword() {
	if r.spec.PasswordSecret == nil {
		r.out.Password = r.spec.Password
	} else {
		if r.spec.Password != "" {
			r.invalid("password and passwordSecret do not go together; remove one of them")
			return
		}
		err := r.in.PasswordErr
		if err == nil && r.in.Password == "" {
			err = errors.New("it is empty")
		}
		if err != nil {
			r.fault(reason.NoPassword, "passwordSecret %s: %v", r.spec.PasswordSecret.Name, err)
			return
		}
		r.out.Password = r.in.Password
	}
	if len(r.out.Password) > maxPassword {
		r.fault(reason.NoPassword, "the password is longer than %d bytes, which TCP-MD5 does not have", maxPassword)
	}
}

func (r *peerReader) readHops() {
	r.out.GracefulRestart, r.out.MultiHop = r.spec.EnableGracefulRestart, r.spec.EBGPMultiHop
	if r.spec.TTLSecurityHops == 0 {
		return
	}
	if r.spec.TTLSecurityHops < 1 || r.spec.TTLSecurityHops >= maxTTL {
		r.invalid("ttlSecurityHops: %d; write a number from 1 to %d", r.spec.TTLSecurityHops, maxTTL-1)
		return
	}
	if r.spec.EBGPMultiHop {
		r.invalid("ttlSecurityHops and ebgpMultiHop contradict each other; remove one of them")
		return
	}
	r.out.TTLSecurity = uint8(r.spec.TTLSecurityHops) // checked
}

// readFamilies: a session carries its own family, or both. One without an address always
// carries both, because it has no family that its configuration could have meant.
func (r *peerReader) readFamilies() {
	both := r.spec.DualStackAddressFamily || r.spec.Interface != ""
	r.out.IPv4 = both || r.out.Addr.Is4()
	r.out.IPv6 = both || r.out.Addr.Is6()
}

// parseASN reads an AS number, in plain notation or as two halves of 16 bits (RFC 5396, asdot).
func parseASN(text string) (uint32, error) {
	high, low, dotted := strings.Cut(text, ".")
	if !dotted {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return 0, fmt.Errorf("%q is no AS number", text)
		}
		return uint32(n), nil // of 32 bits
	}
	h, errHigh := strconv.ParseUint(high, 10, 16)
	l, errLow := strconv.ParseUint(low, 10, 16)
	if errHigh != nil || errLow != nil {
		return 0, fmt.Errorf("%q is no AS number", text)
	}
	return uint32(h<<16 | l), nil //nolint:gosec // of 16 bits each
}
