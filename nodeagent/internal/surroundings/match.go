// SPDX-License-Identifier: Apache-2.0

package surroundings

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
)

// match is a comparison of a rule: what of the packet, and with what.
type match struct {
	Op    string          `json:"op"`
	Left  json.RawMessage `json:"left"`
	Right json.RawMessage `json:"right"`
}

// left is what a rule looks at.
type left struct {
	Meta    *struct{ Key string }             `json:"meta"`
	CT      *struct{ Key string }             `json:"ct"`
	FIB     *struct{ Result string }          `json:"fib"`
	Payload *struct{ Protocol, Field string } `json:"payload"`
}

// matches tells whether the packet of [walk] certainly fits, or, where the rule asks for a
// destination, may fit.
func matches(data json.RawMessage) (fits, destination bool) {
	var m match
	if json.Unmarshal(data, &m) != nil {
		return false, false
	}
	has := fitting(m.Left)
	if has == nil {
		return false, false
	}
	found := slices.ContainsFunc(values(m.Right), has)
	return found == (m.Op != "!="), isDestination(m.Left)
}

func isDestination(data json.RawMessage) bool {
	var l left
	return json.Unmarshal(data, &l) == nil && l.Payload != nil && l.Payload.Field == "daddr"
}

// lookUp follows a verdict map.
func lookUp(data json.RawMessage) step {
	var m struct {
		Key  json.RawMessage `json:"key"`
		Data struct {
			Set [][2]json.RawMessage `json:"set"`
		} `json:"data"`
	}
	if json.Unmarshal(data, &m) != nil {
		return step{}
	}
	fits := fitting(m.Key)
	if fits == nil || isDestination(m.Key) {
		return step{}
	}
	for _, pair := range m.Data.Set {
		if !slices.ContainsFunc(values(pair[0]), fits) {
			continue
		}
		var to map[string]json.RawMessage
		if json.Unmarshal(pair[1], &to) != nil {
			return step{}
		}
		for kind, data := range to {
			return stepOf(kind, data)
		}
	}
	return step{}
}

// fitting returns which values of a field the packet has; nil: that is not known.
func fitting(data json.RawMessage) func(string) bool {
	var l left
	if json.Unmarshal(data, &l) != nil {
		return nil
	}
	switch {
	case l.Meta != nil && (l.Meta.Key == "iifname" || l.Meta.Key == "iif"):
		return isUplink
	case l.Meta != nil && l.Meta.Key == "l4proto", l.Payload != nil && (l.Payload.Field == "protocol" || l.Payload.Field == "nexthdr"):
		return is("tcp")
	case l.CT != nil && l.CT.Key == "state":
		return is("new")
	case l.CT != nil && l.CT.Key == "status":
		return is("confirmed") // not dnat: a rule of ours decided that
	case l.FIB != nil && l.FIB.Result == "type":
		return is("local")
	case l.Payload != nil && l.Payload.Field == "daddr":
		return mayBePool
	case l.Payload != nil && l.Payload.Field == "saddr":
		return func(v string) bool { return strings.HasSuffix(v, "/0") }
	default:
		return nil
	}
}

func is(want string) func(string) bool { return func(v string) bool { return v == want } }

// isUplink tells whether packets from outside come in by a link: not by loopback, nor by
// those of pods and containers.
func isUplink(name string) bool {
	inner := []string{"lo", "cni", "cbr", "veth", "docker", "podman", "br-", "flannel", "cali", "cilium", "lxc", "kube-", "virbr", "tun", "wg", "tailscale"}
	return !slices.ContainsFunc(inner, func(p string) bool { return strings.HasPrefix(name, p) })
}

// mayBePool tells whether a rule about a destination may be about pools: somebody wrote it
// for addresses of machines. Which ones a named set holds is not asked.
func mayBePool(value string) bool {
	if strings.HasPrefix(value, "@") {
		return true
	}
	prefix, err := netip.ParsePrefix(value)
	if err != nil {
		addr, err := netip.ParseAddr(value)
		if err != nil {
			return false
		}
		prefix = netip.PrefixFrom(addr, addr.BitLen())
	}
	a := prefix.Addr()
	return !a.IsMulticast() && !a.IsLoopback() && !a.IsLinkLocalUnicast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// values flattens the right side of a comparison: a value, a prefix, a set or list of those.
func values(data json.RawMessage) []string {
	var text string
	if json.Unmarshal(data, &text) == nil {
		return []string{text}
	}
	var list []json.RawMessage
	if json.Unmarshal(data, &list) == nil {
		var out []string
		for _, item := range list {
			out = append(out, values(item)...)
		}
		return out
	}
	var object struct {
		Set    json.RawMessage `json:"set"`
		Prefix *struct {
			Addr string `json:"addr"`
			Len  int    `json:"len"`
		} `json:"prefix"`
		Elem *struct {
			Val json.RawMessage `json:"val"`
		} `json:"elem"`
	}
	if json.Unmarshal(data, &object) != nil {
		return nil
	}
	switch {
	case object.Set != nil:
		return values(object.Set)
	case object.Prefix != nil:
		if a, err := netip.ParseAddr(object.Prefix.Addr); err == nil {
			return []string{netip.PrefixFrom(a, object.Prefix.Len).String()}
		}
	case object.Elem != nil:
		return values(object.Elem.Val)
	}
	return nil
}
