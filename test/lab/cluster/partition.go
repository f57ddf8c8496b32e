// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/test/lab/host"
)

// From says what a partition cuts nodes off from.
type From string

// What nodes can be cut off from.
const (
	// FromAPI is the API server.
	FromAPI From = "api"
	// FromPeers are all nodes that are not cut off with them; API server and
	// kubelets go on talking.
	FromPeers From = "peers"
	// FromAll is both.
	FromAll From = "all"
)

// kubeletPort is where the API server asks for logs.
const kubeletPort = 10250

// Cut is one partition: these nodes on one side, all others on the other.
// Clients reach both sides.
type Cut struct {
	Nodes []string `json:"nodes"`
	From  From     `json:"from"`
}

// Partition cuts nodes off, besides those that are cut off already. Its filter
// works on the switch, in a table of its own.
//
// What passes between the sides goes through pods' addresses only, so that a
// client's connection through a node of one side to a pod on the other lives.
// That needs the nodes' addresses, for which they may not ask each other any
// more: they get them as permanent neighbours until [Lab.Heal].
//
// It returns the moment just before the cut.
func (l *Lab) Partition(ctx context.Context, c Cut) (time.Time, error) {
	if err := l.checkCut(c); err != nil {
		return time.Time{}, err
	}
	l.state.Cuts = append(l.state.Cuts, c)
	if err := l.introduce(true, l.state.Cuts); err != nil {
		return time.Time{}, err
	}
	at := l.now()
	return at, errors.Join(l.filter(ctx), l.save())
}

// Heal ends all partitions and returns the moment just before.
func (l *Lab) Heal(ctx context.Context) (time.Time, error) {
	if l.state.Plan == nil {
		return time.Time{}, ErrNotUp
	}
	healed, at := l.state.Cuts, l.now()
	l.state.Cuts = nil
	return at, errors.Join(l.filter(ctx), l.introduce(false, healed), l.save())
}

func (l *Lab) checkCut(c Cut) error {
	if l.state.Plan == nil {
		return ErrNotUp
	}
	for i, n := range c.Nodes {
		if err := l.isNode(n); err != nil {
			return err
		}
		if slices.Contains(c.Nodes[:i], n) {
			return fmt.Errorf("node %s is named twice", n)
		}
	}
	switch c.From {
	case FromAPI:
		if slices.Contains(c.Nodes, ControlPlane) {
			return fmt.Errorf("%s reaches its own API server without the network: pause apiserver instead", ControlPlane)
		}
	case FromPeers, FromAll:
		if len(c.Nodes) == len(l.state.Plan.Of(KindNode)) {
			return errors.New("every node is named, so there is nobody to cut them off from")
		}
	}
	return nil
}

// filter puts the rules for the present cuts in place of the former ones.
func (l *Lab) filter(ctx context.Context) error {
	sw, err := l.running(SwitchName)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = strings.NewReader(ruleset(l.state.Plan, l.state.Cuts)), &out, &out, host.Environ()
	if err := host.Enter(sw.Pid, true, cmd); err != nil {
		return fmt.Errorf("nft: %w: %s", err, strings.TrimSpace(out.String()))
	}
	return nil
}

// introduce makes the nodes on either side of the cuts permanent neighbours, or
// ordinary ones again. Nodes that are off have no neighbours.
func (l *Lab) introduce(permanent bool, cuts []Cut) error {
	for _, h := range l.state.Plan.Of(KindNode) {
		if r := l.state.Running[h.Name]; r.Alive() {
			if err := host.SetNeighbours(r.Pid, l.state.Plan.acrossOf(h.Name, cuts, permanent)); err != nil {
				return fmt.Errorf("node %s: %w", h.Name, err)
			}
		}
	}
	return nil
}

// acrossOf lists the addresses of the nodes that cuts separate from a node's
// ARP and neighbour discovery.
func (p *Plan) acrossOf(name string, cuts []Cut, permanent bool) []host.Neighbour {
	var out []host.Neighbour
	for _, h := range p.Of(KindNode) {
		separate := slices.ContainsFunc(cuts, func(c Cut) bool {
			return c.From != FromAPI && slices.Contains(c.Nodes, h.Name) != slices.Contains(c.Nodes, name)
		})
		if !separate {
			continue
		}
		for _, a := range h.prefixes() {
			out = append(out, host.Neighbour{Address: a.Addr(), MAC: h.MAC(), Permanent: permanent})
		}
	}
	return out
}

// ruleset is the nft script that replaces the lab's table by one for the cuts.
// Ports on the switch are called like their hosts.
func ruleset(p *Plan, cuts []Cut) string {
	var b strings.Builder
	b.WriteString("add table bridge fairlead_lab\ndelete table bridge fairlead_lab\n")
	if len(cuts) == 0 {
		return b.String()
	}
	b.WriteString("table bridge fairlead_lab {\n")
	for i, c := range cuts {
		fmt.Fprintf(&b, "\tchain cut%d {\n", i)
		for _, rule := range rules(p, c.From) {
			fmt.Fprintf(&b, "\t\t%s\n", rule)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("\tchain forward {\n\t\ttype filter hook forward priority 0; policy accept;\n")
	for i, c := range cuts {
		one, other := sides(p, c)
		fmt.Fprintf(&b, "\t\tiifname { %s } oifname { %s } jump cut%d\n", one, other, i)
		fmt.Fprintf(&b, "\t\tiifname { %s } oifname { %s } jump cut%d\n", other, one, i)
	}
	b.WriteString("\t}\n}\n")
	return b.String()
}

// sides are the two sides of a cut as nft lists them. Only the control plane is
// on the other side of a node without API server.
func sides(p *Plan, c Cut) (one, other string) {
	var far []string
	for _, h := range p.Of(KindNode) {
		if !slices.Contains(c.Nodes, h.Name) && (c.From != FromAPI || h.Name == ControlPlane) {
			far = append(far, h.Name)
		}
	}
	return quoted(c.Nodes), quoted(far)
}

func quoted(names []string) string { return `"` + strings.Join(names, `", "`) + `"` }

// rules say what is dropped between two sides. They return and never accept: a
// second cut must get to see the frame too.
func rules(p *Plan, from From) []string {
	control, nodes := []*Host{p.Host(ControlPlane)}, p.Of(KindNode)
	if from == FromAPI {
		return api(control, "drop")
	}
	out := []string{"ether type arp drop", "icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, nd-redirect } drop"}
	if from == FromPeers {
		out = append(out, api(control, "return")...)
		out = append(out, perFamily(control, fmt.Sprintf("%%[1]s saddr { %%[2]s } tcp dport %d return", kubeletPort))...)
		out = append(out, perFamily(control, fmt.Sprintf("%%[1]s daddr { %%[2]s } tcp sport %d return", kubeletPort))...)
	} else {
		// Pods ask the API server from their own addresses.
		out = append(out, api(control, "drop")...)
	}
	return append(out, perFamily(nodes, "%[1]s saddr { %[2]s } %[1]s daddr { %[2]s } drop")...)
}

// api matches what is said with the API server.
func api(control []*Host, verdict string) []string {
	return append(
		perFamily(control, fmt.Sprintf("%%[1]s daddr { %%[2]s } tcp dport %d %s", apiPort, verdict)),
		perFamily(control, fmt.Sprintf("%%[1]s saddr { %%[2]s } tcp sport %d %s", apiPort, verdict))...)
}

// perFamily fills a rule's format with "ip" and the hosts' IPv4 addresses, and
// with "ip6" and their IPv6 addresses if there are any.
func perFamily(hosts []*Host, format string) []string {
	var addrs [2][]string
	for _, h := range hosts {
		for _, a := range h.prefixes() {
			family := 0
			if a.Addr().Is6() {
				family = 1
			}
			addrs[family] = append(addrs[family], a.Addr().String())
		}
	}
	var out []string
	for family, word := range []string{"ip", "ip6"} {
		if len(addrs[family]) > 0 {
			out = append(out, fmt.Sprintf(format, word, strings.Join(addrs[family], ", ")))
		}
	}
	return out
}
