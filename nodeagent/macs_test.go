// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"slices"
	"testing"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

func TestLinkAddressesOfNodes(t *testing.T) {
	t.Parallel()
	member := func(known bool, last ...byte) plan.Member {
		m := plan.Member{Known: known}
		for _, b := range last {
			m.Interfaces = append(m.Interfaces, loadbalancer.Interface{MAC: [6]byte{5: b}})
		}
		return m
	}
	type members = map[loadbalancer.NodeName]plan.Member
	own := []kernel.Link{{MAC: kernel.MAC{5: 9}}}
	tests := map[string]struct {
		seen []members
		want []byte
	}{
		"told":                           {[]members{{"a": member(true, 1, 2), "b": member(true, 3)}}, []byte{1, 2, 3, 9}},
		"without links":                  {[]members{{"a": member(true)}}, []byte{9}},
		"not heard yet":                  {[]members{{"a": member(false)}}, []byte{9}},
		"missed by the gossip":           {[]members{{"a": member(true, 1)}, {}}, []byte{1, 9}},
		"changed":                        {[]members{{"a": member(true, 1)}, {"a": member(true, 2)}}, []byte{1, 2, 9}},
		"gone from the cluster":          {[]members{{"x": member(true, 1)}, {}}, []byte{9}},
		"an earlier version":             {[]members{{"a": member(true, 0), "b": member(true, 1)}}, nil},
		"an earlier version, then this":  {[]members{{"a": member(true, 0)}, {"a": member(true, 1)}}, []byte{1, 9}},
		"an earlier version that is cut": {[]members{{"a": member(true, 0)}, {}}, nil},
	}
	for name, tt := range tests {
		m := macs{}
		for _, seen := range tt.seen {
			m.learn(seen, ready("a", "b"))
		}
		var got []byte
		for mac := range m.all(own) {
			got = append(got, mac[5])
		}
		slices.Sort(got)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}
