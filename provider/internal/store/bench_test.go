// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/provider/internal/store"
)

// full is a server with many Services that all have their claims and records. Its lists
// are made once: what is measured is the store.
type full struct {
	claims   v1alpha1.IPClaimList
	records  v1alpha1.LoadBalancerList
	pools    v1alpha1.IPAddressPoolList
	services corev1.ServiceList
}

func (f *full) Claims() store.Claims         { return fullClaims{f: f} }
func (f *full) Records(string) store.Records { return fullRecords{f: f} }
func (f *full) ListPools(context.Context) (*v1alpha1.IPAddressPoolList, error) {
	return &f.pools, nil
}

func (f *full) ListServices(context.Context) (*corev1.ServiceList, error) {
	return &f.services, nil
}

type fullClaims struct {
	store.Claims
	f *full
}

func (c fullClaims) List(context.Context, metav1.ListOptions) (*v1alpha1.IPClaimList, error) {
	return &c.f.claims, nil
}

type fullRecords struct {
	store.Records
	f *full
}

func (r fullRecords) List(context.Context, metav1.ListOptions) (*v1alpha1.LoadBalancerList, error) {
	return &r.f.records, nil
}

func newFull(n int) *full {
	f := &full{pools: v1alpha1.IPAddressPoolList{Items: []v1alpha1.IPAddressPool{{
		ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "a", ResourceVersion: "1"},
		Spec:       v1alpha1.IPAddressPoolSpec{Addresses: []string{"10.0.0.0/8"}},
	}}}}
	addr := netip.MustParseAddr("10.0.0.0")
	for i := range n {
		name, uid := fmt.Sprintf("svc%06d", i), types.UID(fmt.Sprintf("uid%06d", i))
		meta := metav1.ObjectMeta{Namespace: "default", Name: name, UID: uid, ResourceVersion: "2"}
		f.services.Items = append(f.services.Items, corev1.Service{
			ObjectMeta: meta,
			Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 80}}},
			Status:     corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: addr.String()}}}},
		})
		f.records.Items = append(f.records.Items, v1alpha1.LoadBalancer{ObjectMeta: meta, Spec: v1alpha1.LoadBalancerSpec{
			ServiceUID: uid, Addresses: []v1alpha1.LoadBalancerAddress{{Address: addr.String(), Pool: "a", Claim: addr.String()}},
		}})
		f.claims.Items = append(f.claims.Items, v1alpha1.IPClaim{
			ObjectMeta: metav1.ObjectMeta{Name: addr.String(), UID: "c" + uid, ResourceVersion: "2", Generation: 1},
			Spec: v1alpha1.IPClaimSpec{
				Address: addr.String(), Pool: "a", Group: addr.String(), Phase: v1alpha1.ClaimBound,
				Services: []v1alpha1.ServiceReference{{Namespace: "default", Name: name, UID: uid, Ports: []v1alpha1.Port{{Protocol: "TCP", Port: 80}}}},
			},
		})
		addr = addr.Next()
	}
	return f
}

// BenchmarkColdStart is the time from a new leader's first list to the first allocation
// that it may make, with 50,000 claims, records and Services, as the informers bring
// them and as the store lists them itself once more.
func BenchmarkColdStart(b *testing.B) {
	const claims = 50_000
	f := newFull(claims)
	var took time.Duration
	for b.Loop() {
		ctx, stop := context.WithCancel(klog.NewContext(b.Context(), logr.Discard()))
		start := time.Now()
		s := store.New(store.Options{API: f, Classes: convert.Classes{Classless: true}})
		for i := range claims {
			s.ObserveClaim(&f.claims.Items[i])
			s.ObserveRecord(&f.records.Items[i])
			s.ObserveService(&f.services.Items[i])
		}
		go func() { _ = s.Run(ctx) }()
		if err := s.WaitReady(ctx); err != nil {
			b.Fatal(err)
		}
		if got, _, fault := s.Allocate(request("new"), store.Ticket{}); fault != nil || got[0].Addr != mustAddr(b, "10.0.195.80") {
			b.Fatalf("the first allocation: %v, %v", got, fault)
		}
		took += time.Since(start)
		stop()
	}
	b.ReportMetric(claims, "claims")
	b.ReportMetric(took.Seconds()/float64(b.N), "s/start")
}

// BenchmarkServiceOfMany is what the store costs per Service that comes and goes, beside
// 1,000 and 10,000 others: it should not depend on how many there are.
func BenchmarkServiceOfMany(b *testing.B) {
	for _, n := range []int{1_000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			f := newFull(n)
			s := store.New(store.Options{API: f, Classes: convert.Classes{Classless: true}})
			s.ObservePool(&f.pools.Items[0])
			for i := range n {
				s.ObserveClaim(&f.claims.Items[i])
				s.ObserveRecord(&f.records.Items[i])
				s.ObserveService(&f.services.Items[i])
			}
			version := 10
			for b.Loop() {
				got, _, fault := s.Allocate(request("new"), store.Ticket{})
				if fault != nil {
					b.Fatal(fault)
				}
				version += 2
				c := claim(fmt.Sprint(version), func(c *v1alpha1.IPClaim) {
					c.Name, c.UID = v1alpha1.ClaimName(got[0].Addr), types.UID(fmt.Sprint("new", version))
					c.Spec.Services[0] = v1alpha1.ServiceReference{Namespace: "default", Name: "new", UID: "new"}
				})
				s.ObserveClaim(c)
				s.Cancel("new")
				gone := c.DeepCopy()
				gone.ResourceVersion = fmt.Sprint(version + 1)
				s.ForgetClaim(gone)
			}
		})
	}
}
