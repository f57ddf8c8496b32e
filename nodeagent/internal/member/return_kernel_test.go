// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package member

import (
	"fmt"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/test/netns"
)

// The last word of an agent that restarts reaches everybody, however many they are and
// however much it claims.
func TestRestartIsTold(t *testing.T) {
	const size = 8
	nodes := cluster(t, size, 1)
	s := State{Claims: map[loadbalancer.Group]uint64{}}
	for i := range 1000 {
		s.Claims[loadbalancer.Group(fmt.Sprintf("10.0.%d.%d", i/250, i%250))] = 3
	}
	for _, n := range nodes {
		n.Publish(State{})
	}
	nodes[0].Publish(s)
	for _, n := range nodes[1:] {
		n.until(t, "told of all claims", 20*time.Second, func(v View) bool { return len(v.Members["n0"].Claims) == 1000 })
	}
	s.Restarting = 30 * time.Second
	nodes[0].Publish(s)
	nodes[0].leave(t)
	for _, n := range nodes[1:] {
		n.until(t, "told of the restart", 2*time.Second, func(v View) bool {
			g := v.Gone["n0"]
			return g.Restarting == 30*time.Second && len(g.Last.Claims) == 1000 && !g.Last.Leaving
		})
	}
}

// A member that was held for dead is found again soon after it can be reached.
func TestDeadMemberIsFoundAgain(t *testing.T) {
	nodes := cluster(t, 2, 1)
	for _, n := range nodes {
		n.Publish(State{Claims: map[loadbalancer.Group]uint64{"g": 7}})
		n.until(t, "complete", 10*time.Second, func(v View) bool { return len(v.Members) == 1 })
	}
	nodes[1].unplug()
	nodes[0].until(t, "alone", 5*time.Second, sees())
	// By then no packet is under way that would tell them.
	quiet := time.NewTimer(3 * time.Second)
	<-quiet.C
	defer netns.AddAddr(t, "lo", addrsOf(2)["n1"].String()+"/32")()
	took := nodes[0].until(t, "joined by the other", 5*time.Second, sees("n1"))
	t.Logf("found again after %s", took)
	if run := nodes[0].View().Runs["n1"]; run.Joins != 2 {
		t.Errorf("joined %d times, want 2", run.Joins)
	}
}
