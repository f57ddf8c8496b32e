// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"strings"

	"sigs.k8s.io/knftables"
)

// markMatch is what our marks have in common; the planner gives them out.
const markMatch = "meta mark & 0xfff00000 == 0x0fa00000"

const servicePort = ". meta l4proto . th dport"

// setsAndMaps are those that are always there. Their names end in the family.
func setsAndMaps() []knftables.Object {
	var objects []knftables.Object
	for _, f := range families() {
		service := f.addrType + " . inet_proto . inet_service"
		objects = append(objects,
			&knftables.Set{Name: "vips" + f.suffix, Type: f.addrType},
			&knftables.Set{Name: "served" + f.suffix, Type: service},
			&knftables.Set{Name: "waits" + f.suffix, Type: service},
			&knftables.Set{Name: "foreign" + f.suffix, Type: service},
			&knftables.Set{Name: "local" + f.suffix, Type: f.addrType},
			prefixSet("pods"+f.suffix, f.addrType),
			&knftables.Map{Name: "marks" + f.suffix, Type: service + " : mark"},
			&knftables.Map{Name: "sources" + f.suffix, Type: service + " : verdict"},
		)
		for _, p := range protocols() {
			objects = append(objects, &knftables.Set{
				Name: masqueradeSet(p, f.suffix), Type: f.addrType + " . inet_service",
			})
		}
	}
	return append(objects, leftSets()...)
}

// leftSets hold what was served, and is not any more, until its virtual servers are gone.
func leftSets() []knftables.Object {
	var objects []knftables.Object
	for _, f := range families() {
		objects = append(objects, &knftables.Set{
			Name: "left" + f.suffix, Type: f.addrType + " . inet_proto . inet_service",
		})
	}
	return objects
}

func prefixSet(name, addrType string) *knftables.Set {
	return &knftables.Set{Name: name, Type: addrType, Flags: []knftables.SetFlag{knftables.IntervalFlag}}
}

func chains() []knftables.Object {
	base := func(name string, kind knftables.BaseChainType, hook knftables.BaseChainHook, priority knftables.BaseChainPriority) knftables.Object {
		return &knftables.Chain{Name: name, Type: &kind, Hook: &hook, Priority: &priority}
	}
	return []knftables.Object{
		base("prerouting", knftables.FilterType, knftables.PreroutingHook, "-150"),
		base("output", knftables.FilterType, knftables.OutputHook, "-150"),
		base("nat-prerouting", knftables.NATType, knftables.PreroutingHook, "-110"),
		base("nat-output", knftables.NATType, knftables.OutputHook, "-110"),
		base("forward", knftables.FilterType, knftables.ForwardHook, "-10"),
		base("nat-postrouting", knftables.NATType, knftables.PostroutingHook, "90"),
		base("forward-guard", knftables.FilterType, knftables.ForwardHook, "110"),
		base("output-guard", knftables.FilterType, knftables.OutputHook, "110"),
		base("input-guard", knftables.FilterType, knftables.InputHook, "110"),
		&knftables.Chain{Name: "wait"},
		&knftables.Chain{Name: "refuse"},
	}
}

// rules are those of every table of ours, in order.
func rules() []knftables.Object {
	var out []knftables.Object
	rule := func(chain, text string) {
		out = append(out, &knftables.Rule{Chain: chain, Rule: text})
	}
	each := func(chain, text string) {
		for _, f := range families() {
			rule(chain, strings.NewReplacer("IP", f.header, "%", f.suffix, "SERVICE", f.header+" daddr "+servicePort).Replace(text))
		}
	}
	each("prerouting", "SERVICE vmap @sources%")
	each("prerouting", "IP saddr @pods% meta mark set SERVICE map @marks%")
	each("output", "meta mark set SERVICE map @marks%")
	for _, chain := range []string{"nat-prerouting", "nat-output"} {
		each(chain, "IP daddr @vips% dnat IP to IP daddr")
		each(chain, "SERVICE @foreign% dnat IP to IP daddr")
	}
	each("forward", "IP daddr @vips% drop")
	rule("nat-postrouting", markMatch+" masquerade fully-random")
	each("nat-postrouting", "IP daddr @local% return")
	for _, p := range protocols() {
		name := strings.ToLower(p.String())
		each("nat-postrouting", "meta l4proto "+name+" ct original IP daddr . ct original proto-dst @masquerade-"+name+"% masquerade fully-random")
	}
	rule("wait", "tcp flags & syn == 0 ct state != established reject with tcp reset")
	rule("wait", "drop")
	rule("refuse", "meta l4proto tcp reject with tcp reset")
	rule("refuse", "reject with icmpx type port-unreachable")
	for _, chain := range []string{"forward-guard", "input-guard"} {
		each(chain, "ct direction reply ct original IP daddr @vips% ct status & dnat == 0 IP saddr != @vips% drop")
	}
	// Answers to what the node itself asked of an address of ours, from which it asked.
	rule("output-guard", "ct direction reply return")
	each("output-guard", "SERVICE @waits% goto wait")
	rule("input-guard", "ct direction reply return")
	each("input-guard", "SERVICE @waits% goto wait")
	rule("input-guard", "meta l4proto { icmp, ipv6-icmp } return")
	each("input-guard", "IP daddr @vips% goto refuse")
	return out
}

// sourceList are the objects of one list of sources: its set, and the chain that drops
// who is not in it.
func sourceList(name string) []knftables.Object {
	f := families()[0]
	if strings.HasSuffix(name, "6") {
		f = families()[1]
	}
	return []knftables.Object{
		prefixSet(name, f.addrType),
		&knftables.Chain{Name: name},
		&knftables.Rule{Chain: name, Rule: f.header + " saddr @" + name + " return"},
		&knftables.Rule{Chain: name, Rule: "drop"},
	}
}
