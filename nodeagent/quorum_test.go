// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
)

func live(names ...loadbalancer.NodeName) map[loadbalancer.NodeName]plan.Member {
	out := map[loadbalancer.NodeName]plan.Member{}
	for _, n := range names {
		out[n] = plan.Member{Known: true}
	}
	return out
}

func ready(names ...loadbalancer.NodeName) map[loadbalancer.NodeName]loadbalancer.Node {
	out := map[loadbalancer.NodeName]loadbalancer.Node{}
	for _, n := range names {
		out[n] = loadbalancer.Node{Name: n, Ready: true}
	}
	return out
}

func TestMinority(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	all := ready("a", "b", "c", "d")
	tests := map[string]struct {
		before, after map[loadbalancer.NodeName]plan.Member
		nodes         map[loadbalancer.NodeName]loadbalancer.Node
		want          bool
	}{
		"one of one":                     {live("a"), live("a"), all, false},
		"one of two fails over":          {live("a", "b"), live("a"), all, false},
		"one of three":                   {live("a", "b", "c"), live("a"), all, true},
		"two of four":                    {live("a", "b", "c", "d"), live("a", "b"), all, false},
		"one of four":                    {live("a", "b", "c", "d"), live("a"), all, true},
		"the API server says they died":  {live("a", "b", "c", "d"), live("a"), ready("a", "b"), false},
		"they said goodbye":              {map[loadbalancer.NodeName]plan.Member{"a": {}, "b": {Leaving: true}, "c": {Leaving: true}}, live("a"), all, false},
		"everybody seen, nobody missing": {live("a", "b"), live("a", "b", "c"), all, false},
	}
	for name, tt := range tests {
		q := newQuorum()
		q.minority(now, tt.before, all)
		if got := q.minority(now.Add(time.Second), tt.after, tt.nodes); got != tt.want {
			t.Errorf("%s: minority is %t, want %t", name, got, tt.want)
		}
	}
}

func TestTheDeadAreForgottenByAMajorityOnly(t *testing.T) {
	t.Parallel()
	all := ready("a", "b", "c", "d")
	now := time.Unix(1000, 0)
	q := newQuorum()
	q.minority(now, live("a", "b", "c", "d"), all)
	now = now.Add(2 * forgetAfter)
	q.minority(now, live("a", "b"), all)
	if q.minority(now.Add(time.Second), live("a"), all) {
		t.Error("one of the last two is a minority although the others died long ago")
	}
	q = newQuorum()
	q.minority(now, live("a", "b", "c", "d"), all)
	for range 10 {
		now = now.Add(forgetAfter)
		if !q.minority(now, live("a"), all) {
			t.Fatal("a minority forgot the others")
		}
	}
}
