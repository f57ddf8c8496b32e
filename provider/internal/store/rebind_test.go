// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/provider/internal/store"
	"github.com/fairlead-lb/fairlead/provider/internal/store/storetest"
)

// picky is a server whose schema refuses one claim.
type picky struct {
	*storetest.API
	refused string
}

func (p picky) Claims() store.Claims { return pickyClaims{p.API.Claims(), p.refused} }

type pickyClaims struct {
	store.Claims
	refused string
}

func (p pickyClaims) Create(ctx context.Context, c *v1alpha1.IPClaim, o metav1.CreateOptions) (*v1alpha1.IPClaim, error) {
	if c.Name == p.refused {
		return nil, apierrors.NewInvalid(schema.GroupKind{Group: v1alpha1.GroupName, Kind: "IPClaim"}, c.Name, nil)
	}
	return p.Claims.Create(ctx, c, o)
}

// A claim that the API server will never take does not keep every other Service waiting.
func TestRebindSkipsWhatIsInvalid(t *testing.T) {
	t.Parallel()
	api := storetest.New()
	api.PutPool(&v1alpha1.IPAddressPool{
		ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: v1alpha1.IPAddressPoolSpec{Addresses: []string{"192.0.2.0/30"}},
	})
	for name, ip := range map[string]string{"bad": "192.0.2.0", "good": "192.0.2.1"} {
		api.PutService(&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)},
			Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer},
			Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{
				Ingress: []corev1.LoadBalancerIngress{{IP: ip}},
			}},
		})
	}
	ctx, cancel := context.WithTimeout(klog.NewContext(t.Context(), logr.Discard()), 5*time.Second)
	defer cancel()
	s := store.New(store.Options{API: picky{api, "192.0.2.0"}, Classes: convert.Classes{Classless: true}})
	api.Watch(s)
	go func() { _ = s.Run(ctx) }()
	if err := s.WaitReady(ctx); err != nil {
		t.Fatalf("not ready: %v", err)
	}
	if s.Claim("192.0.2.1") == nil {
		t.Error("the other Service's address was not bound again")
	}
	if got, _, fault := s.Allocate(request("new"), store.Ticket{}); fault != nil || got[0].Addr != mustAddr(t, "192.0.2.2") {
		t.Errorf("a new Service got %v, %v", got, fault)
	}
}
