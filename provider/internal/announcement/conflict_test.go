// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

const (
	foreign = "02:00:5e:10:00:01"
	another = "02:00:5e:10:00:02"
)

// hear lets a node's agent report that hosts have an address; none ends the report.
func (b *bed) hear(t *testing.T, nodeName string, i int, announced bool, macs ...string) {
	t.Helper()
	agent, _ := b.agents.Find(nodeName)
	agent.Status.Conflicts = nil
	for n, mac := range macs {
		agent.Status.Conflicts = append(agent.Status.Conflicts, v1alpha1.AddressConflict{
			Address: address(i).Address, Interface: []string{"eth0", "eth1"}[n], MAC: mac, Announced: announced,
			Since: metav1.NewTime(time.Now().Truncate(time.Second)),
		})
	}
	b.agents.Put(t, agent)
	wait(t, 100*time.Millisecond) // less than changes of nodes are gathered for
}

func wantEvents(t *testing.T, b *bed, want ...string) {
	t.Helper()
	got := b.takeEvents()
	if len(got) != len(want) {
		t.Fatalf("events %q, want %d", got, len(want))
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("event %q, want %q…", got[i], want[i])
		}
	}
}

// A foreign host has an address before it is ever announced: the record says so and names
// the host, the Service is told once; all is well as soon as the host is gone.
func TestDuplicateAddressIsToldAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.allocate(t, 7)
		wait(t, time.Second)
		b.takeEvents()
		b.hear(t, "worker", 7, false, foreign)
		for _, name := range []string{v1alpha1.ConditionAnnounced, v1alpha1.ConditionReady} {
			c := b.condition(t, 7, name)
			if c.Status != metav1.ConditionFalse || c.Reason != reason.DuplicateAddress.String() ||
				!strings.Contains(c.Message, foreign) || !strings.Contains(c.Message, address(7).Address) || !strings.Contains(c.Message, "node worker") {
				t.Errorf("%s is %s %s: %s", name, c.Status, c.Reason, c.Message)
			}
		}
		wantEvents(t, b, "Warning DuplicateAddress a host that is no node of this cluster has 172.20.255.7 (MAC address "+foreign)

		b.hear(t, "worker", 7, false) // and again: told already
		b.hear(t, "worker", 7, false, foreign)
		wantEvents(t, b)
		b.hear(t, "worker", 7, false, foreign, another)
		wantEvents(t, b, "Warning DuplicateAddress a host that is no node of this cluster has 172.20.255.7 (MAC address "+another)

		b.hear(t, "worker", 7, false)
		if c := b.condition(t, 7, v1alpha1.ConditionAnnounced); c.Reason != reason.WaitingForAgent.String() {
			t.Errorf("reason %s after the conflict, want WaitingForAgent", c.Reason)
		}
		b.own(t, 7, "worker", 1)
		wait(t, time.Second)
		if c := b.condition(t, 7, v1alpha1.ConditionAnnounced); c.Status != metav1.ConditionTrue {
			t.Errorf("not announced: %s", c.Message)
		}
		wantEvents(t, b, "Normal Announcing")
	})
}

// A foreign host takes an address that is announced: a condition of its own, which goes,
// and the address counts as announced all the while.
func TestConflictWhileAnnouncing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.allocate(t, 7)
		b.own(t, 7, "worker", 1)
		wait(t, time.Second)
		b.takeEvents()
		b.hear(t, "worker", 7, true, foreign)
		c := b.condition(t, 7, v1alpha1.ConditionConflict)
		if c.Status != metav1.ConditionTrue || c.Reason != reason.DuplicateAddress.String() || !strings.Contains(c.Message, foreign) {
			t.Errorf("Conflict is %s %s: %s", c.Status, c.Reason, c.Message)
		}
		if c := b.condition(t, 7, v1alpha1.ConditionReady); c.Status != metav1.ConditionTrue {
			t.Errorf("not ready: %s", c.Message)
		}
		wantEvents(t, b, "Warning DuplicateAddress")
		b.hear(t, "worker2", 7, true, foreign) // another node hears it too
		wantEvents(t, b)
		b.hear(t, "worker2", 7, true)
		b.hear(t, "worker", 7, true)
		r, _ := b.records.Find("default/svc7")
		if c := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionConflict); c != nil {
			t.Errorf("condition %+v after the conflict", c)
		}
		wantEvents(t, b)
	})
}

// What the agent of a lost node wrote last is no news.
func TestConflictOfALostNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.allocate(t, 7)
		b.hear(t, "worker", 7, false, foreign)
		n, _ := b.nodes.Find("worker")
		n.Status.Conditions[0].Status = corev1.ConditionUnknown
		b.nodes.Put(t, n)
		wait(t, 3*time.Second)
		if c := b.condition(t, 7, v1alpha1.ConditionAnnounced); c.Reason != reason.WaitingForAgent.String() {
			t.Errorf("reason %s, want WaitingForAgent", c.Reason)
		}
	})
}

// Conflicts concern the records of their addresses and nothing else.
func TestConflictsWriteNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		for i := range 5 {
			b.allocate(t, i)
			b.own(t, i, "worker", 1)
		}
		wait(t, time.Second)
		b.drain()
		b.hear(t, "worker", 3, true, foreign)
		b.hear(t, "worker", 200, true, foreign) // nobody's; ends the other
		if log := b.drain(); len(log) != 2 {
			t.Errorf("writes %v, want two", log)
		}
	})
}

// What an agent says of an address that another node announces is old, or a lie.
func TestConflictToldByAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.allocate(t, 7)
		b.own(t, 7, "worker", 1)
		wait(t, time.Second)
		b.drain()
		b.takeEvents()
		b.hear(t, "worker2", 7, true, foreign)
		b.wantNoWrite(t)
		wantEvents(t, b)
		b.own(t, 7, "worker2", 2)
		wait(t, time.Second)
		if c := b.condition(t, 7, v1alpha1.ConditionConflict); !strings.Contains(c.Message, foreign) {
			t.Errorf("Conflict says %q once the node announces", c.Message)
		}
	})
}

// A host that sends from ever new MAC addresses, or an agent that makes hosts up, fills
// neither the memory nor a condition's message, and does not have each of them written.
func TestConflictsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.allocate(t, 7)
		b.own(t, 7, "worker", 1)
		wait(t, time.Second)
		b.drain()
		agent, _ := b.agents.Find("worker")
		for i := range 1000 {
			agent.Status.Conflicts = nil
			for k := range 64 {
				agent.Status.Conflicts = append(agent.Status.Conflicts, v1alpha1.AddressConflict{
					Address: address(7).Address, Interface: fmt.Sprintf("e%d", k), MAC: fmt.Sprintf("02:00:00:%02x:%02x:%02x", i/256, i%256, k), Announced: true,
				})
			}
			b.agents.Put(t, agent)
			wait(t, time.Millisecond)
			b.takeEvents()
		}
		wait(t, time.Second)
		if got := len(b.condition(t, 7, v1alpha1.ConditionConflict).Message); got > 2000 {
			t.Errorf("a message of %d bytes", got)
		}
		if got := len(b.drain()); got > 50 {
			t.Errorf("%d writes in a second", got)
		}
		r, _ := b.records.Find("default/svc7")
		b.mu.Lock()
		defer b.mu.Unlock()
		if got := len(b.told[r.UID]); got > maxTold {
			t.Errorf("%d hosts are remembered", got)
		}
	})
}
