// SPDX-License-Identifier: Apache-2.0

package status_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/status"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/status/statustest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func claim(name string, owner *v1alpha1.Owner) *v1alpha1.IPClaim {
	return &v1alpha1.IPClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1alpha1.IPClaimStatus{Owner: owner}}
}

func owner(node string, epoch int64) *v1alpha1.Owner {
	return &v1alpha1.Owner{Node: node, Epoch: epoch, Since: metav1.Unix(1, 0)}
}

func take(epoch int64) status.Want { return status.Want{Owner: *owner("me", epoch)} }

// run runs an owner writer inside a synctest bubble. cached may be nil: no lag.
func run(t *testing.T, c *statustest.Claims, cached func(string) (*v1alpha1.IPClaim, bool), test func(o *status.Owners)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		if cached == nil {
			cached = c.Peek
		}
		o := status.NewOwners("me", c, cached)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- o.Run(ctx) }()
		test(o)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func settle() {
	time.Sleep(time.Minute) //nolint:forbidigo // a bubble's clock
	synctest.Wait()
}

func TestOwners(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		have *v1alpha1.Owner
		want status.Want
		then *v1alpha1.Owner
		log  []string
	}{
		"writes a first owner":            {nil, take(1), owner("me", 1), []string{"patch c"}},
		"overwrites a lower epoch":        {owner("other", 3), take(4), owner("me", 4), []string{"patch c"}},
		"does not overwrite a higher one": {owner("other", 5), take(4), owner("other", 5), nil},
		"a tie goes to the lower name":    {owner("a", 4), take(4), owner("a", 4), nil},
		"wins a tie by name":              {owner("z", 4), take(4), owner("me", 4), []string{"patch c"}},
		"writes nothing twice":            {owner("me", 4), take(4), owner("me", 4), nil},
		"clears its own":                  {owner("me", 4), status.Want{Clear: true}, nil, []string{"patch c"}},
		"does not clear another's":        {owner("other", 4), status.Want{Clear: true}, owner("other", 4), nil},
		"leaves alone what is not wanted": {owner("me", 4), status.Want{}, owner("me", 4), nil},
		"clearing nothing writes nothing": {nil, status.Want{Clear: true}, nil, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := statustest.NewClaims()
			c.Put(claim("c", tt.have))
			run(t, c, nil, func(o *status.Owners) {
				for range 3 {
					o.Set(map[string]status.Want{"c": tt.want, "absent": tt.want})
					settle()
				}
			})
			got, _ := c.Peek("c")
			if diff := cmp.Diff(tt.then, got.Status.Owner); diff != "" {
				t.Errorf("owner (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.log, c.TakeLog()); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		})
	}
}

// The loop sets the same wants again after every event; a server that refuses them must
// not see each of these.
func TestRefusedOwnerIsNotWrittenPerEvent(t *testing.T) {
	t.Parallel()
	c := statustest.NewClaims()
	c.Put(claim("c", nil))
	c.FailWith(func(string, string) error { return errors.New("forbidden") })
	run(t, c, nil, func(o *status.Owners) {
		for range 1000 {
			o.Set(map[string]status.Want{"c": take(1)})
			time.Sleep(10 * time.Millisecond) //nolint:forbidigo // a bubble's clock
		}
		if n := len(c.TakeLog()); n > 10 {
			t.Errorf("%d requests in 10 s", n)
		}
		o.Set(map[string]status.Want{"c": take(2)})
		time.Sleep(time.Millisecond) //nolint:forbidigo // a bubble's clock
		if n := len(c.TakeLog()); n != 1 {
			t.Errorf("%d requests for something new, want 1 at once", n)
		}
	})
}

func TestOwnerIsRetriedUntilWritten(t *testing.T) {
	t.Parallel()
	c := statustest.NewClaims()
	c.Put(claim("c", nil))
	failures := 0
	c.FailWith(func(string, string) error {
		if failures++; failures <= 20 {
			return errors.New("the server is away")
		}
		return nil
	})
	run(t, c, nil, func(o *status.Owners) {
		o.Set(map[string]status.Want{"c": take(1)})
		time.Sleep(5 * time.Minute) //nolint:forbidigo // a bubble's clock
	})
	if got, _ := c.Peek("c"); got.Status.Owner == nil || got.Status.Owner.Node != "me" {
		t.Errorf("owner is %v after %d attempts", got.Status.Owner, failures)
	}
}

func TestOwnerThatWasLostMeanwhileIsNotWritten(t *testing.T) {
	t.Parallel()
	c := statustest.NewClaims()
	c.Put(claim("c", nil))
	down := true
	c.FailWith(func(string, string) error {
		if down {
			return errors.New("the server is away")
		}
		return nil
	})
	run(t, c, nil, func(o *status.Owners) {
		o.Set(map[string]status.Want{"c": take(1)})
		settle()
		o.Set(nil)
		synctest.Wait()
		down = false
		settle()
	})
	if got, _ := c.Peek("c"); got.Status.Owner != nil {
		t.Errorf("owner is %v, want none", got.Status.Owner)
	}
}

// A copy that never catches up causes one write, and no loop of conflicts.
func TestLaggingCopy(t *testing.T) {
	t.Parallel()
	c := statustest.NewClaims()
	c.Put(claim("c", nil))
	stale, _ := c.Peek("c")
	run(t, c, func(string) (*v1alpha1.IPClaim, bool) { return stale, true }, func(o *status.Owners) {
		for range 5 {
			o.Set(map[string]status.Want{"c": take(1)})
			settle()
		}
	})
	if diff := cmp.Diff([]string{"patch c"}, c.TakeLog()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

// An agent that was stopped must not overwrite what happened meanwhile.
func TestStaleAgentLosesTheRace(t *testing.T) {
	t.Parallel()
	c := statustest.NewClaims()
	c.Put(claim("c", owner("me", 1)))
	stale, _ := c.Peek("c")
	c.Put(claim("c", owner("other", 9)))
	run(t, c, func(string) (*v1alpha1.IPClaim, bool) { return stale, true }, func(o *status.Owners) {
		o.Set(map[string]status.Want{"c": take(2)})
		settle()
		o.Set(map[string]status.Want{"c": {Clear: true}})
		settle()
	})
	if got, _ := c.Peek("c"); got.Status.Owner == nil || got.Status.Owner.Node != "other" {
		t.Errorf("owner is %v, want other", got.Status.Owner)
	}
}

func TestClearNow(t *testing.T) {
	t.Parallel()
	c := statustest.NewClaims()
	c.Put(claim("mine", owner("me", 1)))
	c.Put(claim("other", owner("other", 2)))
	o := status.NewOwners("me", c, c.Peek)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := o.Run(ctx); err != nil { // ends the queue's goroutines
		t.Fatal(err)
	}
	if err := o.ClearNow(t.Context(), []string{"mine", "other", "gone"}); err != nil {
		t.Errorf("ClearNow: %v", err)
	}
	mine, _ := c.Peek("mine")
	other, _ := c.Peek("other")
	if mine.Status.Owner != nil || other.Status.Owner == nil {
		t.Errorf("owners are %v and %v, want none and other", mine.Status.Owner, other.Status.Owner)
	}
	c.FailWith(func(string, string) error { return errors.New("the server is away") })
	if err := o.ClearNow(t.Context(), []string{"mine"}); err == nil || !strings.Contains(err.Error(), "away") {
		t.Errorf("error is %v", err)
	}
}

// What an earlier run told of the data plane stays until this one tells.
func TestDataPlaneOutlivesARestart(t *testing.T) {
	t.Parallel()
	n := statustest.NewNodeAgents()
	n.Put(&v1alpha1.NodeAgent{
		ObjectMeta: metav1.ObjectMeta{Name: "me"},
		Status:     v1alpha1.NodeAgentStatus{DataPlane: v1alpha1.DataPlaneStatus{Forwarding: v1alpha1.ForwardingIPVS, Revision: "7"}},
	})
	synctest.Test(t, func(t *testing.T) {
		r := status.NewReport("me", n, func() types.UID { return "uid" }, func() {})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		for _, c := range []struct {
			told v1alpha1.DataPlaneStatus
			want string
		}{
			{want: "ipvs@7"},
			{told: v1alpha1.DataPlaneStatus{Forwarding: v1alpha1.ForwardingKubeProxy}, want: "kube-proxy@"},
			{told: v1alpha1.DataPlaneStatus{Forwarding: v1alpha1.ForwardingIPVS, Revision: "9"}, want: "ipvs@9"},
		} {
			r.Set(v1alpha1.NodeAgentStatus{Version: "v1", DataPlane: c.told}, status.Health{Reason: reason.Listening})
			settle()
			got, _ := n.Peek("me")
			if p := got.Status.DataPlane; string(p.Forwarding)+"@"+p.Revision != c.want {
				t.Errorf("told %+v, want %s", p, c.want)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestReport(t *testing.T) {
	t.Parallel()
	n := statustest.NewNodeAgents()
	synctest.Test(t, func(t *testing.T) {
		r := status.NewReport("me", n, func() types.UID { return "uid" }, func() {})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		listening := status.Health{Reason: reason.Listening, Message: "listens"}
		running := status.Health{Ready: true, Reason: reason.Running, Message: "runs"}
		for i := range 50 {
			r.Set(v1alpha1.NodeAgentStatus{Version: strconv.Itoa(i)}, listening)
			time.Sleep(100 * time.Millisecond) //nolint:forbidigo // a bubble's clock
		}
		settle()
		if got := n.Writes(); got > 8 {
			t.Errorf("%d writes for fifty changes in five seconds, want at most one a second", got)
		}
		got, _ := n.Peek("me")
		if got.Status.Version != "49" || got.OwnerReferences[0].UID != "uid" || got.Status.Conditions[0].Status != metav1.ConditionFalse {
			t.Errorf("object is %+v", got)
		}
		before := n.Writes()
		r.Set(v1alpha1.NodeAgentStatus{Version: "49"}, listening)
		settle()
		if n.Writes() != before {
			t.Error("wrote although nothing changed")
		}
		n.Delete("me")
		n.FailWith(func() error { return errors.New("the server is away") })
		r.Set(v1alpha1.NodeAgentStatus{Version: "50"}, running)
		settle()
		n.FailWith(nil)
		settle()
		got, ok := n.Peek("me")
		if !ok || got.Status.Version != "50" || got.Status.Conditions[0].Reason != "Running" {
			t.Errorf("after the outage: %+v", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// What an earlier run recorded is read before anything is written, or it would be lost.
func TestKernelSettingsAreReadFirst(t *testing.T) {
	t.Parallel()
	setting := v1alpha1.KernelSetting{Name: "net/ipv4/conf/eth0/arp_ignore", Former: "0", Value: "1"}
	for name, first := range map[string]error{
		"away":      errors.New("the server is away"),
		"forbidden": apierrors.NewForbidden(schema.GroupResource{Resource: "nodeagents"}, "me", nil),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := statustest.NewNodeAgents()
				n.Put(&v1alpha1.NodeAgent{
					ObjectMeta: metav1.ObjectMeta{Name: "me"},
					Status:     v1alpha1.NodeAgentStatus{KernelSettings: []v1alpha1.KernelSetting{setting}},
				})
				n.FailWith(func() error { return first })
				r := status.NewReport("me", n, func() types.UID { return "uid" }, func() {})
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- r.Run(ctx) }()
				r.Set(v1alpha1.NodeAgentStatus{Version: "2"}, status.Health{Reason: reason.Syncing})
				settle()
				_, known := r.KernelSettings()
				if forbidden := name == "forbidden"; known != forbidden {
					t.Errorf("settings are known: %t", known)
				}
				n.FailWith(nil)
				settle()
				got, _ := n.Peek("me")
				list, known := r.KernelSettings()
				// Where they could not be read they stay as they are, for who looks at the object.
				if len(got.Status.KernelSettings) != 1 || name == "away" && len(list) != 1 || !known || got.Status.Version != "2" {
					t.Errorf("status is %+v, settings are %v, %t", got.Status, list, known)
				}
				r.SetKernelSettings(nil)
				settle()
				if got, _ = n.Peek("me"); name == "away" && len(got.Status.KernelSettings) != 0 {
					t.Errorf("settings are %v, want none", got.Status.KernelSettings)
				}
				cancel()
				if err := <-done; err != nil {
					t.Errorf("Run: %v", err)
				}
			})
		})
	}
}
