// SPDX-License-Identifier: Apache-2.0

package allocation_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/provider/internal/store/storetest"
)

// While Services wait, addresses that come free go to the oldest, whoever else arrives at
// that very moment; and within a second.
func TestNobodyOvertakes(t *testing.T) { forBoth(t, testNobodyOvertakes) }

func testNobodyOvertakes(t *testing.T, k kind) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		const size, waiting = 8, 20
		api := storetest.New()
		api.PutPool(newPool("a", "192.0.2.0/29"))
		l := newLeader(t, api, k)
		ctx, stop := context.WithCancel(quiet(t))
		defer stop()
		go func() { _ = l.ctl.Run(ctx) }()
		var all []*corev1.Service
		for i := range size + waiting {
			svc := newService(fmt.Sprintf("s%02d", (i*5)%(size+waiting)), i, nil)
			all = append(all, svc)
			_, err := l.ensureOnly(t, svc)
			synctest.Wait() // who is first while there is room is the workers' chance
			if (err == nil) != (i < size) && k.class == "" {
				t.Fatalf("Service %d: %v", i, err)
			}
		}
		<-time.After(3 * time.Second)
		for i := range waiting {
			freed := time.Now()
			l.mustRemove(t, all[i])
			c := claimHeldBy(api, all[i])
			arrives := newService(fmt.Sprintf("late%02d", i), 1000+i, nil)
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = l.ensureOnly(t, arrives)
			}()
			api.RemoveClaim(c)
			<-done
			<-time.After(time.Second - time.Since(freed))
			synctest.Wait()
			next := api.Service("default", all[size+i].Name)
			if got := ips(&next.Status.LoadBalancer); !slices.Equal(got, []string{c}) {
				t.Fatalf("round %d: the oldest that waits, %s, got %v, want %s", i, next.Name, got, c)
			}
		}
	})
}

// Whoever waited longest is asked first when a pool comes back, whatever the reason was:
// here the younger would take the one address that the older asks for.
func TestOlderIsAskedFirstWhateverItWaitsFor(t *testing.T) { forBoth(t, testOlderIsAskedFirst) }

func testOlderIsAskedFirst(t *testing.T, k kind) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		api := storetest.New()
		l := newLeader(t, api, k)
		asks := newService("asks", 1, annotate("fairlead.dev/addresses", "192.0.2.0"))
		other := newService("any", 2, nil)
		l.mustFail(t, asks, reason.AddressNotInPool)
		l.mustFail(t, other, reason.NoPool)
		api.PutPool(newPool("a", "192.0.2.0/31"))
		// The service controller's next attempt comes before the line is served.
		if got, err := l.ensureOnly(t, other); err == nil && k.class == "" {
			t.Errorf("the younger got %v before the older was asked", got)
		}
		ctx, stop := context.WithCancel(quiet(t))
		defer stop()
		go func() { _ = l.ctl.Run(ctx) }()
		<-time.After(3 * time.Second)
		synctest.Wait()
		for name, want := range map[string]string{"asks": "192.0.2.0", "any": "192.0.2.1"} {
			if got := ips(&api.Service("default", name).Status.LoadBalancer); !slices.Equal(got, []string{want}) {
				t.Errorf("%s has %v, want %s", name, got, want)
			}
		}
	})
}

func claimHeldBy(api *storetest.API, svc *corev1.Service) string {
	for _, c := range api.AllClaims() {
		if c.Spec.Services[0].UID == svc.UID {
			return c.Name
		}
	}
	return ""
}
