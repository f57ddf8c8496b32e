// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/knftables"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// element is the key of an element of a set or map. Which of its fields count depends on
// the shape of that set; the others are zero.
type element struct {
	prefix   netip.Prefix
	protocol loadbalancer.Protocol
	port     uint16
}

// contents are sets and maps by name; of sets the values are empty.
type contents map[string]map[element]string

// family of a set's addresses.
type family struct {
	// suffix of the set's name, type of its addresses, and how rules call the header.
	suffix, addrType, header string
}

func families() [2]family {
	return [2]family{{"4", "ipv4_addr", "ip"}, {"6", "ipv6_addr", "ip6"}}
}

func suffix(addr netip.Addr) string {
	if addr.Is4() {
		return "4"
	}
	return "6"
}

func whole(addr netip.Addr) element {
	return element{prefix: netip.PrefixFrom(addr, addr.BitLen())}
}

func keyOf(s loadbalancer.Served) element {
	e := whole(s.Addr)
	e.protocol, e.port = s.Protocol, s.Port
	return e
}

// contentsOf says what the table's sets and maps hold for a plan.
func contentsOf(want loadbalancer.Forwarding) contents {
	c := make(contents)
	shared := make(map[netip.Addr]bool)
	for _, s := range want.Served {
		if s.Foreign {
			shared[s.Addr] = true
		}
	}
	for _, addr := range want.VIPs {
		if !shared[addr] {
			c.add("vips"+suffix(addr), whole(addr), "")
		}
	}
	itself := realsOf(want)
	for _, s := range want.Served {
		c.serve(s, shared[s.Addr], itself[keyOf(s)])
	}
	for _, addr := range want.LocalReals {
		c.add("local"+suffix(addr), whole(addr), "")
	}
	for _, prefix := range outermost(want.InCluster) {
		c.add("pods"+suffix(prefix.Addr()), element{prefix: prefix}, "")
	}
	return c
}

// realsOf returns the real servers, in the shape of what is served.
func realsOf(want loadbalancer.Forwarding) map[element]bool {
	reals := make(map[element]bool)
	for _, vs := range want.VirtualServers {
		for _, r := range vs.Reals {
			e := whole(r.Addr)
			e.protocol, e.port = vs.Protocol, r.Port
			reals[e] = true
		}
	}
	return reals
}

func (c contents) serve(s loadbalancer.Served, shared, itself bool) {
	key, family := keyOf(s), suffix(s.Addr)
	c.add("served"+family, key, "")
	if !itself {
		// A pod in the host's network may listen where its own Service is served, on the
		// node's address: what IPVS has taken looks the same as what it has not.
		c.add("waits"+family, key, "")
	}
	if shared {
		c.add("foreign"+family, key, "")
	}
	if s.Mark != 0 {
		c.add("marks"+family, key, fmt.Sprintf("0x%08x", s.Mark))
	}
	if s.Masquerade {
		c.add(masqueradeSet(s.Protocol, family), element{prefix: key.prefix, port: key.port}, "")
	}
	if len(s.Sources) > 0 {
		name, elements := sources(s.Sources, s.Addr)
		c[name] = elements
		c.add("sources"+family, key, "jump "+name)
	}
}

func (c contents) add(name string, e element, value string) {
	if c[name] == nil {
		c[name] = make(map[element]string)
	}
	c[name][e] = value
}

func masqueradeSet(p loadbalancer.Protocol, family string) string {
	return "masquerade-" + strings.ToLower(p.String()) + family
}

const sourcesPrefix = "from-"

// sources returns the set of the prefixes of the address's family, named after what it
// holds: equal lists are one set, and a set never changes.
func sources(prefixes []netip.Prefix, addr netip.Addr) (string, map[element]string) {
	elements := make(map[element]string)
	h := fnv.New64a()
	for _, p := range outermost(prefixes) {
		if p.Addr().Is4() != addr.Is4() {
			continue
		}
		elements[element{prefix: p}] = ""
		fmt.Fprintln(h, p)
	}
	return fmt.Sprintf("%s%016x-%s", sourcesPrefix, h.Sum64(), suffix(addr)), elements
}

// outermost returns the prefixes without those that lie in another one: the kernel's
// interval sets refuse what overlaps.
func outermost(prefixes []netip.Prefix) []netip.Prefix {
	sorted := make([]netip.Prefix, 0, len(prefixes))
	for _, p := range prefixes {
		sorted = append(sorted, p.Masked())
	}
	slices.SortFunc(sorted, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	out := sorted[:0]
	for _, p := range sorted {
		if len(out) == 0 || !out[len(out)-1].Overlaps(p) {
			out = append(out, p)
		}
	}
	return out
}

// shape says which fields of an element are a set's key.
type shape int

const (
	addresses shape = iota // address
	prefixes               // prefix, an interval
	services               // address . protocol . port
	targets                // address . port
)

func shapeOf(name string) shape {
	switch {
	case strings.HasPrefix(name, "vips"), strings.HasPrefix(name, "local"):
		return addresses
	case strings.HasPrefix(name, "pods"), strings.HasPrefix(name, sourcesPrefix):
		return prefixes
	case strings.HasPrefix(name, "masquerade"):
		return targets
	default:
		return services
	}
}

func isMap(name string) bool {
	return strings.HasPrefix(name, "marks") || strings.HasPrefix(name, "sources")
}

// key renders the element's key as nft has it.
func (e element) key(s shape) []string {
	port := strconv.Itoa(int(e.port))
	switch s {
	case prefixes:
		return []string{e.prefix.String()}
	case services:
		return []string{e.prefix.Addr().String(), strings.ToLower(e.protocol.String()), port}
	case targets:
		return []string{e.prefix.Addr().String(), port}
	default:
		return []string{e.prefix.Addr().String()}
	}
}

// object is the element as knftables has it.
func (e element) object(name, value string) *knftables.Element {
	obj := &knftables.Element{Key: e.key(shapeOf(name))}
	if isMap(name) {
		obj.Map = name
		obj.Value = []string{value}
	} else {
		obj.Set = name
	}
	return obj
}

// parseElement is the inverse of key: nft may leave the length out of a prefix.
func parseElement(name string, key []string) (element, error) {
	var e element
	var err error
	fields := map[shape]int{addresses: 1, prefixes: 1, services: 3, targets: 2}[shapeOf(name)]
	if len(key) != fields {
		return e, fmt.Errorf("an element of %s has %d fields", name, len(key))
	}
	if strings.Contains(key[0], "/") {
		e.prefix, err = netip.ParsePrefix(key[0])
	} else {
		var addr netip.Addr
		addr, err = netip.ParseAddr(key[0])
		e.prefix = netip.PrefixFrom(addr, addr.BitLen())
	}
	if err != nil {
		return e, fmt.Errorf("an element of %s: %w", name, err)
	}
	if fields == 3 {
		if e.protocol, err = parseProtocol(key[1]); err != nil {
			return e, fmt.Errorf("an element of %s: %w", name, err)
		}
	}
	if fields > 1 {
		port, err := strconv.ParseUint(key[fields-1], 10, 16)
		if err != nil {
			return e, fmt.Errorf("an element of %s: %w", name, err)
		}
		e.port = uint16(port)
	}
	return e, nil
}

func parseProtocol(name string) (loadbalancer.Protocol, error) {
	for _, p := range protocols() {
		if strings.EqualFold(p.String(), name) {
			return p, nil
		}
	}
	return 0, fmt.Errorf("protocol %q is none of ours", name)
}

func protocols() [3]loadbalancer.Protocol {
	return [3]loadbalancer.Protocol{loadbalancer.TCP, loadbalancer.UDP, loadbalancer.SCTP}
}
