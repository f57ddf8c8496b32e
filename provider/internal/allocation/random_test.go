// SPDX-License-Identifier: Apache-2.0

package allocation_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	cloudprovider "k8s.io/cloud-provider"
	"pgregory.net/rapid"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/provider/internal/store"
	"github.com/fairlead-lb/fairlead/provider/internal/store/storetest"
)

// drawService draws what a Service may ask for, of all that there is.
func drawService(rt *rapid.T, name string, uid types.UID) *corev1.Service {
	return newService(name, 1, func(s *corev1.Service) {
		s.UID = uid
		s.Annotations = make(map[string]string)
		s.Spec.Ports[0].Port = int32(rapid.IntRange(80, 82).Draw(rt, "port"))
		if key := rapid.SampledFrom([]string{"", "k", "k", "l"}).Draw(rt, "key"); key != "" {
			s.Annotations[keyKnob] = key
		}
		if rapid.IntRange(0, 3).Draw(rt, "asks") == 0 {
			s.Annotations["fairlead.dev/addresses"] = fmt.Sprintf("192.0.2.%d", rapid.IntRange(0, 4).Draw(rt, "address"))
		}
		if rapid.IntRange(0, 3).Draw(rt, "many") == 0 {
			s.Annotations[v1alpha1.AnnotationAddressCount] = "2"
		}
		if rapid.IntRange(0, 3).Draw(rt, "retains") == 0 {
			s.Annotations[v1alpha1.AnnotationReclaimPolicy] = "Retain"
		}
		if rapid.IntRange(0, 3).Draw(rt, "local") == 0 {
			s.Spec.ExternalTrafficPolicy, s.Spec.Selector = corev1.ServiceExternalTrafficPolicyLocal, map[string]string{"app": "x"}
		}
		if rapid.Bool().Draw(rt, "dual") {
			dual(s)
		}
		if rapid.IntRange(0, 2).Draw(rt, "external") == 0 {
			s.Spec.ExternalIPs = []string{fmt.Sprintf("192.0.2.%d", rapid.IntRange(0, 7).Draw(rt, "external IP"))}
		}
		if rapid.IntRange(0, 4).Draw(rt, "plain") == 0 {
			s.Spec.Type, s.Finalizers = corev1.ServiceTypeClusterIP, nil
		}
	})
}

// noClash is what may never be seen, whatever has failed and whoever lags behind: two
// Services with one port of an address.
func noClash(api *storetest.API) error {
	var errs []error
	for _, c := range api.AllClaims() {
		if c.Spec.Phase == v1alpha1.ClaimBound {
			errs = append(errs, checkTenants(c))
		}
	}
	return errors.Join(errs...)
}

// checkShown verifies that no status shows another's address.
func checkShown(api *storetest.API, alive map[string]*corev1.Service) error {
	var errs []error
	for _, c := range api.AllClaims() {
		if c.Spec.Phase != v1alpha1.ClaimBound {
			continue
		}
		for name := range alive {
			svc := api.Service("default", name)
			if slices.Contains(ips(&svc.Status.LoadBalancer), c.Spec.Address) && !store.Holds(c, svc.UID) {
				errs = append(errs, fmt.Errorf("%s shows %s, which is not its own", name, c.Name))
			}
		}
	}
	return errors.Join(errs...)
}

// endQuarantine deletes the claims that are being released, as the claims controller does.
func endQuarantine(api *storetest.API) {
	for _, c := range api.AllClaims() {
		if c.Spec.Phase == v1alpha1.ClaimReleasing {
			api.RemoveClaim(c.Name)
		}
	}
}

// trouble fails calls at random, each way; it draws from a seed, because calls come from
// many goroutines.
func trouble(seed uint64) func(storetest.Call) storetest.Outcome {
	var mu sync.Mutex
	state := seed | 1
	return func(storetest.Call) storetest.Outcome {
		mu.Lock()
		defer mu.Unlock()
		state ^= state << 13
		state ^= state >> 7
		state ^= state << 17
		switch state % 12 {
		case 0:
			return storetest.FailBefore
		case 1:
			return storetest.FailAfter
		default:
			return storetest.Pass
		}
	}
}

// Two leaders at once, over one server that fails and with caches that lag, change all that
// Services can ask for. At no moment do two Services have one port of an address; and
// after one quiet round everything is as it should be.
func TestTwoLeadersShare(t *testing.T) { forBoth(t, testTwoLeadersShare) }

func testTwoLeadersShare(t *testing.T, k kind) {
	t.Helper()
	rapid.Check(t, func(rt *rapid.T) {
		api := storetest.New()
		api.PutPool(newPool("a", "192.0.2.0/29", "2001:db8::/125"))
		api.PutPolicy(grant("default", "192.0.2.0/30"))
		leaders := []*leader{newLeader(t, api, k), newLeader(t, api, k)}
		alive := make(map[string]*corev1.Service)
		for step := range rapid.IntRange(1, 25).Draw(rt, "steps") {
			if rapid.Bool().Draw(rt, "lag") {
				api.Hold()
			} else {
				api.Deliver()
			}
			name := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(rt, "service")
			svc := alive[name]
			if svc != nil && rapid.IntRange(0, 3).Draw(rt, "ends") == 0 {
				api.OnCall(nil)
				api.DeleteService(svc) // by force: nobody is asked
				delete(alive, name)
				continue
			}
			uid := types.UID(fmt.Sprintf("%s-%d", name, step))
			if svc != nil {
				uid = svc.UID
			}
			svc = drawService(rt, name, uid)
			alive[name] = svc
			if rapid.Bool().Draw(rt, "trouble") {
				api.OnCall(trouble(rapid.Uint64().Draw(rt, "seed")))
			}
			both(t, leaders, svc)
			api.OnCall(nil)
			if err := noClash(api); err != nil {
				rt.Fatal(err)
			}
			if rapid.Bool().Draw(rt, "quarantine ends") {
				// It lasts longer than a cache lags and a leader takes to look again.
				api.Deliver()
				for _, svc := range alive {
					both(t, leaders, svc)
				}
				endQuarantine(api)
				if err := checkShown(api, alive); err != nil {
					rt.Fatal(err)
				}
			}
		}
		api.Deliver()
		for _, l := range leaders {
			l.crash()
		}
		last := newLeader(t, api, k)
		defer last.crash()
		quietRound(t, rt, api, last, alive)
	})
}

// both has two leaders see to one Service at the same time.
func both(t *testing.T, leaders []*leader, svc *corev1.Service) {
	t.Helper()
	leaders[0].kind.dress(svc)
	if now := leaders[0].api.Service(svc.Namespace, svc.Name); now != nil && now.UID == svc.UID && svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		svc.Status = now.Status // a user's change leaves it
	}
	leaders[0].api.PutService(svc)
	var wg sync.WaitGroup
	for _, l := range leaders {
		wg.Go(func() {
			if svc.Spec.LoadBalancerClass == nil && svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
				_, _ = l.alloc.Ensure(quiet(t), svc)
			}
			_ = l.ctl.Sync(quiet(t), keyOf(svc))
		})
	}
	wg.Wait()
}

// quietRound has one leader see to every Service, and ends what the garbage collector and
// the claims controller would end; then all must be well.
func quietRound(t *testing.T, rt *rapid.T, api *storetest.API, l *leader, alive map[string]*corev1.Service) {
	t.Helper()
	var live []*corev1.Service
	uids := make(map[types.UID]bool)
	for range 2 {
		for _, svc := range alive {
			if _, err := l.ensure(t, svc); err != nil && !errors.Is(err, cloudprovider.ImplementedElsewhere) {
				rt.Fatalf("the last leader, Service %s: %v", svc.Name, err)
			}
		}
	}
	for _, svc := range alive {
		live = append(live, svc)
		uids[svc.UID] = true
	}
	for _, r := range api.AllRecords() {
		if !uids[r.OwnerReferences[0].UID] {
			if err := api.Records(r.Namespace).Delete(t.Context(), r.Name, metav1.DeleteOptions{}); err != nil {
				rt.Fatal(err)
			}
		}
	}
	for _, c := range api.AllClaims() {
		for _, ref := range c.Spec.Services {
			if known := l.store.Claim(c.Name); !uids[ref.UID] && known != nil {
				if err := l.store.ReleaseClaim(t.Context(), known, ref.UID, time.Now()); err != nil {
					rt.Fatal(err)
				}
			}
		}
	}
	for _, svc := range live {
		if _, err := l.ensure(t, svc); err != nil && !errors.Is(err, cloudprovider.ImplementedElsewhere) {
			rt.Fatalf("the last leader again, Service %s: %v", svc.Name, err)
		}
		if err := l.ctl.Sync(quiet(t), keyOf(svc)); err != nil {
			rt.Fatalf("the last leader's repair of Service %s: %v", svc.Name, err)
		}
	}
	if err := errors.Join(check(api, live...), checkShown(api, alive)); err != nil {
		rt.Fatal(err)
	}
}
