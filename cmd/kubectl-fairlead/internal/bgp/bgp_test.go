// SPDX-License-Identifier: Apache-2.0

package bgp_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/agents"
	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/bgp"
	"github.com/fairlead-lb/fairlead/loadbalancer/told"
)

func TestRoutes(t *testing.T) {
	t.Parallel()
	pref, med := uint32(0), uint32(20)
	reports := []told.Report{
		{Node: "n1", Silent: []told.Silent{{Address: "192.0.2.9", Reason: "NoLocalEndpoint"}}, Sessions: []told.Session{
			{Peer: "tor-a", Routes: []told.Route{
				{Prefix: "192.0.2.1/32", LocalPref: &pref, MED: &med, Communities: []string{"65535:0", "large:1:2:3"}, LinkBandwidth: 3, Addresses: []string{"192.0.2.1"}},
				{Prefix: "198.51.100.0/24", Prepend: 3, Addresses: []string{"198.51.100.1", "198.51.100.2", "198.51.100.3", "198.51.100.4"}},
			}},
			{Peer: "tor-b", Routes: []told.Route{{Prefix: "192.0.2.1/32", Addresses: []string{"192.0.2.1"}}}},
		}},
		{Node: "n2", Reason: "Draining"},
	}
	gaps := []agents.Gap{{Node: "n3", Cause: "its agent does not run"}}
	got := bgp.ForRoutes(reports, gaps, bgp.Filter{}).Text()
	want := `NODE   PEER    PREFIX            LOCALPREF   MED   PREPEND   COMMUNITIES           BANDWIDTH   ADDRESSES
n1     tor-a   192.0.2.1/32      0           20    -         65535:0,large:1:2:3   3           -
n1     tor-a   198.51.100.0/24   -           -     3         -                     -           198.51.100.1,198.51.100.2,198.51.100.3 and 1 more
n1     tor-b   192.0.2.1/32      -           -     -         -                     -           -
n1 tells nobody 192.0.2.9: NoLocalEndpoint
n2 tells nobody anything: Draining
n3 is not in it: its agent does not run
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
	if some := bgp.ForRoutes(reports, gaps, bgp.Filter{Peer: "tor-b"}); len(some.Routes) != 1 || some.Routes[0].Peer != "tor-b" {
		t.Errorf("of one peer: %+v", some.Routes)
	}
	if none := bgp.ForRoutes(nil, nil, bgp.Filter{}).Text(); none != "no route is told\n" {
		t.Errorf("without agents: %q", none)
	}
}
