// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"strings"
	"testing"
)

const addr = "192.0.2.1"

func shows(revision uint64, name string, port int32, addresses ...string) Event {
	return Event{Revision: revision, Kind: "service", Key: "ns/" + name, Service: &Service{
		Key: "ns/" + name, UID: "uid-" + name, Balanced: true, Shown: addresses, Ports: []Port{{"TCP", port}}, Families: []string{"IPv4"},
	}}
}

func holds(revision uint64, phase string, tenants ...Tenant) Event {
	return Event{Revision: revision, Kind: "claim", Key: addr, Claim: &Claim{Name: addr, Address: addr, Pool: "p", Phase: phase, Tenants: tenants}}
}

func tenant(name string, ports ...int32) Tenant {
	t := Tenant{Key: "ns/" + name, UID: "uid-" + name}
	for _, p := range ports {
		t.Ports = append(t.Ports, Port{"TCP", p})
	}
	return t
}

func TestReplayFindsEveryDoubleAllocation(t *testing.T) {
	leaving := shows(2, "a", 80, addr)
	leaving.Service.Leaving = true
	gone := Event{Revision: 4, Kind: "service", Key: "ns/a"}
	second := holds(2, "Bound", tenant("b", 80))
	second.Key, second.Claim.Name = "other", "other"
	for _, tc := range []struct {
		name   string
		events []Event
		want   string // part of the only fault; empty means none
	}{
		{"one holder", []Event{holds(1, "Bound", tenant("a", 80)), shows(2, "a", 80, addr)}, ""},
		{
			"order is by revision",
			[]Event{shows(5, "b", 80, addr), gone, holds(3, "Bound", tenant("b", 80)), shows(2, "a", 80, addr), holds(1, "Bound", tenant("a", 80))},
			"shown by ns/a but held by ns/b",
		},
		{"two statuses", []Event{shows(1, "a", 80, addr), shows(2, "b", 80, addr)}, "192.0.2.1 TCP/80 is shown by ns/a and by ns/b"},
		{"shared with other ports", []Event{holds(1, "Bound", tenant("a", 80), tenant("b", 81)), shows(2, "a", 80, addr), shows(3, "b", 81, addr)}, ""},
		{"a port changed by its user", []Event{holds(1, "Bound", tenant("a", 80), tenant("b", 81)), shows(2, "a", 80, addr), shows(3, "b", 80, addr)}, ""},
		{
			"given away while its user changed the port",
			[]Event{holds(1, "Bound", tenant("a", 80)), shows(2, "a", 90, addr), holds(3, "Bound", tenant("b", 80))},
			"shown by ns/a but held by ns/b",
		},
		{"the first goes", []Event{shows(1, "a", 80, addr), leaving, shows(3, "b", 80, addr)}, ""},
		{"the first went", []Event{shows(1, "a", 80, addr), gone, shows(5, "b", 80, addr)}, ""},
		{"claim with a clash", []Event{holds(1, "Bound", tenant("a", 80, 81), tenant("b", 81))}, "both serve TCP/81"},
		{"claim without ports", []Event{holds(1, "Bound", tenant("a"), tenant("b", 81))}, "does not say which ports ns/a serves"},
		{"claim that nobody holds", []Event{holds(1, "Retained", tenant("a", 80), tenant("b", 80))}, ""},
		{"two claims", []Event{holds(1, "Bound", tenant("a", 80)), second}, "192.0.2.1 has 2 claims"},
		{"given away", []Event{shows(1, "a", 80, addr), holds(2, "Bound", tenant("b", 80))}, "shown by ns/a but held by ns/b"},
		{"shown after it was given away", []Event{holds(1, "Bound", tenant("b", 80)), shows(2, "a", 80, addr)}, "shown by ns/a but held by ns/b"},
		{"given away with other ports", []Event{shows(1, "a", 80, addr), holds(2, "Bound", tenant("b", 81))}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := Replay(tc.events).Faults
			switch {
			case tc.want == "" && len(got) != 0:
				t.Errorf("faults %q, want none", got)
			case tc.want != "" && (len(got) != 1 || !strings.Contains(got[0], tc.want)):
				t.Errorf("faults %q, want one with %q", got, tc.want)
			}
		})
	}
}

func TestReplayTellsWhoCameBack(t *testing.T) {
	again := func(revision uint64, address string) []Event {
		e := shows(revision, "a", 80, address)
		e.Service.UID = "uid-second"
		c := holds(revision-1, "Bound", Tenant{Key: "ns/a", UID: "uid-second", Ports: []Port{{"TCP", 80}}})
		c.Key, c.Claim.Name, c.Claim.Address = address, address, address
		return []Event{c, e}
	}
	before := []Event{holds(1, "Bound", tenant("a", 80)), shows(2, "a", 80, addr), {Revision: 3, Kind: "service", Key: "ns/a"}, holds(4, "Retained", tenant("a", 80))}
	if v := Replay(append(before, again(7, addr)...)); v.Back != 1 || v.Elsewhere != 0 {
		t.Errorf("with its old address: %+v", v)
	}
	if v := Replay(append(before, again(7, "192.0.2.2")...)); v.Back != 0 || v.Elsewhere != 1 {
		t.Errorf("with another address: %+v", v)
	}
}
