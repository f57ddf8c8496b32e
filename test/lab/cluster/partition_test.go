// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"io"
	"strings"
	"testing"
	"time"
)

func planOf(t *testing.T, nodes int) *Plan {
	t.Helper()
	p, err := NewPlan(nodes, FamilyDual)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRulesetOfNoCutRemovesTheTable(t *testing.T) {
	t.Parallel()
	const want = "add table bridge fairlead_lab\ndelete table bridge fairlead_lab\n"
	if got := ruleset(planOf(t, 2), nil); got != want {
		t.Errorf("got %q", got)
	}
}

func TestRuleset(t *testing.T) {
	t.Parallel()
	p := planOf(t, 4)
	between := []string{
		`iifname { "worker", "worker2" } oifname { "control-plane", "worker3" } jump cut0`,
		`iifname { "control-plane", "worker3" } oifname { "worker", "worker2" } jump cut0`,
	}
	for _, c := range []struct {
		from         From
		want, absent []string
	}{
		{FromPeers, append([]string{
			"ether type arp drop", "nd-neighbor-solicit", "ip daddr { 172.20.0.5, 192.168.10.10 } tcp dport 6443 return",
			"ip saddr { 172.20.0.5, 192.168.10.10 } tcp dport 10250 return", "172.20.0.3, 192.168.10.103 } drop",
			"ip6 daddr { fd00:172:20::5 } tcp dport 6443 return",
			"ip6 saddr { fd00:172:20::5, fd00:172:20::4, fd00:172:20::2, fd00:172:20::3 } ip6 daddr { fd00:172:20::5,",
		}, between...), []string{"6443 drop"}},
		{FromAll, append([]string{"ether type arp drop", "tcp dport 6443 drop", "192.168.10.103 } drop"}, between...), []string{"return"}},
		{FromAPI, []string{
			"tcp dport 6443 drop", "ip6 saddr { fd00:172:20::5 } tcp sport 6443 drop",
			`iifname { "worker", "worker2" } oifname { "control-plane" } jump cut0`,
		}, []string{"arp", "icmpv6", "return", "worker3"}},
	} {
		got := ruleset(p, []Cut{{Nodes: []string{"worker", "worker2"}, From: c.from}})
		for _, w := range c.want {
			if !strings.Contains(got, w) {
				t.Errorf("%s: %q is missing in\n%s", c.from, w, got)
			}
		}
		for _, a := range append(c.absent, "mypc", "172.20.0.6") {
			if strings.Contains(got, a) {
				t.Errorf("%s: %q does not belong in\n%s", c.from, a, got)
			}
		}
	}
}

// A verdict "accept" would hide a frame from the cuts after it.
func TestCutsAddUp(t *testing.T) {
	t.Parallel()
	got := ruleset(planOf(t, 3), []Cut{{Nodes: []string{"worker"}, From: FromPeers}, {Nodes: []string{"worker"}, From: FromAPI}})
	if strings.Count(got, "accept") != 1 || strings.Count(got, "jump cut0") != 2 || strings.Count(got, "jump cut1") != 2 {
		t.Errorf("got\n%s", got)
	}
}

func TestNeighboursAcrossACut(t *testing.T) {
	t.Parallel()
	p := planOf(t, 4)
	cuts := []Cut{{Nodes: []string{"worker"}, From: FromPeers}, {Nodes: []string{"worker2"}, From: FromAPI}}
	mac := p.Host("worker").MAC()
	for node, want := range map[string]int{"worker": 3, "worker2": 1, "worker3": 1, ControlPlane: 1} {
		got := p.acrossOf(node, cuts, true)
		// Every node has the same number of addresses.
		if n := len(got) / len(p.Host(node).prefixes()); n != want || len(got)%len(p.Host(node).prefixes()) != 0 {
			t.Errorf("%s: %d neighbours, want %d: %v", node, n, want, got)
		}
		for _, n := range got {
			if !n.Permanent || (node != "worker" && n.MAC != mac) {
				t.Errorf("%s: %+v", node, n)
			}
		}
	}
}

func TestPartitionRefuses(t *testing.T) {
	t.Parallel()
	l, err := Open(t.TempDir(), "self", io.Discard, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.checkCut(Cut{Nodes: []string{"worker"}, From: FromAPI}); err == nil {
		t.Error("a cut without a lab is accepted")
	}
	l.state.Plan = planOf(t, 2)
	for _, c := range []Cut{
		{[]string{"nowhere"}, FromPeers},
		{[]string{"mypc"}, FromPeers},
		{[]string{"worker", "worker"}, FromPeers},
		{[]string{"worker", ControlPlane}, FromPeers},
		{[]string{"worker", ControlPlane}, FromAll},
		{[]string{ControlPlane}, FromAPI},
	} {
		if err := l.checkCut(c); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
	for _, c := range []Cut{{[]string{"worker"}, FromAPI}, {[]string{ControlPlane}, FromPeers}, {[]string{"worker"}, FromAll}} {
		if err := l.checkCut(c); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestParseMilliCPU(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int{"50m": 50, "2": 2000, "none": 0, "10m": 10} {
		if got, err := ParseMilliCPU(in); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "m", "-50m", "0", "9m", "50mm", "1.5", "9999999"} {
		if got, err := ParseMilliCPU(in); err == nil {
			t.Errorf("%q is read as %d", in, got)
		}
	}
}

// Everything that acts on an agent says so when the node is off or unknown.
func TestAgentOfAHostThatIsOff(t *testing.T) {
	t.Parallel()
	l, err := Open(t.TempDir(), "self", io.Discard, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	l.state.Plan = planOf(t, 2)
	for node, want := range map[string]string{"worker": "is off", "mypc": "no node", "x/y": "no node"} {
		_, kill := l.KillAgent(node)
		for what, err := range map[string]error{
			"freeze": l.Freeze(t.Context(), node+"/agent"), "thaw": l.Thaw(node + "/agent"), "kill": kill,
			"limit": l.LimitAgent(node, 50), "burn": l.Burn(t.Context(), node, 1, time.Second),
		} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s %s: %v, want %q", what, node, err, want)
			}
		}
	}
}

func TestBurnIsBounded(t *testing.T) {
	t.Parallel()
	for _, bad := range []struct {
		loops int
		d     time.Duration
	}{{0, time.Second}, {MaxLoops + 1, time.Second}, {1, 0}, {1, MaxBurn + 1}} {
		if err := checkBurn(bad.loops, bad.d); err == nil {
			t.Errorf("burn %+v is accepted", bad)
		}
	}
	if err := checkBurn(MaxLoops, MaxBurn); err != nil {
		t.Error(err)
	}
}
