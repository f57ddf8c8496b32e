// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"context"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/provider/internal/store"
)

// Records implements store.API.
func (a *API) Records(namespace string) store.Records { return records{a, namespace} }

type records struct {
	a         *API
	namespace string
}

func (r records) Create(_ context.Context, in *v1alpha1.LoadBalancer, _ metav1.CreateOptions) (*v1alpha1.LoadBalancer, error) {
	obj := in.DeepCopy()
	id := r.namespace + "/" + in.Name
	err := r.a.call(Call{"create", "record/" + id}, func() error {
		if r.a.records[id] != nil {
			return apierrors.NewAlreadyExists(resource("loadbalancers"), in.Name)
		}
		r.a.stamp(&obj.ObjectMeta)
		r.a.putRecord(id, obj)
		return nil
	})
	return obj, err
}

func (a *API) putRecord(id string, obj *v1alpha1.LoadBalancer) {
	a.records[id] = obj
	a.tell(func(s *store.Store) { s.ObserveRecord(obj.DeepCopy()) })
}

func (r records) Update(_ context.Context, in *v1alpha1.LoadBalancer, _ metav1.UpdateOptions) (*v1alpha1.LoadBalancer, error) {
	obj := in.DeepCopy()
	id := r.namespace + "/" + in.Name
	err := r.a.call(Call{"update", "record/" + id}, func() error {
		old := r.a.records[id]
		if old == nil {
			return apierrors.NewNotFound(resource("loadbalancers"), in.Name)
		}
		if old.ResourceVersion != in.ResourceVersion {
			return apierrors.NewConflict(resource("loadbalancers"), in.Name, nil)
		}
		obj.ResourceVersion = r.a.next()
		if !equality.Semantic.DeepEqual(old.Spec, obj.Spec) {
			obj.Generation++
		}
		r.a.putRecord(id, obj)
		return nil
	})
	return obj, err
}

func (r records) Delete(_ context.Context, name string, o metav1.DeleteOptions) error {
	id := r.namespace + "/" + name
	return r.a.call(Call{"delete", "record/" + id}, func() error {
		old := r.a.records[id]
		if old == nil {
			return apierrors.NewNotFound(resource("loadbalancers"), name)
		}
		if err := checkDelete("loadbalancers", old, o.Preconditions); err != nil {
			return err
		}
		last := old.DeepCopy()
		last.ResourceVersion = r.a.next()
		delete(r.a.records, id)
		r.a.tell(func(s *store.Store) { s.ForgetRecord(last) })
		return nil
	})
}

func (r records) Get(_ context.Context, name string, _ metav1.GetOptions) (*v1alpha1.LoadBalancer, error) {
	id := r.namespace + "/" + name
	var obj *v1alpha1.LoadBalancer
	err := r.a.call(Call{"get", "record/" + id}, func() error {
		if obj = r.a.records[id].DeepCopy(); obj == nil {
			return apierrors.NewNotFound(resource("loadbalancers"), name)
		}
		return nil
	})
	return obj, err
}

func (r records) List(context.Context, metav1.ListOptions) (*v1alpha1.LoadBalancerList, error) {
	out := &v1alpha1.LoadBalancerList{}
	err := r.a.call(Call{"list", "records"}, func() error {
		for _, id := range slices.Sorted(maps.Keys(r.a.records)) {
			out.Items = append(out.Items, *r.a.records[id].DeepCopy())
		}
		return nil
	})
	return out, err
}

// ListPools implements store.API.
func (a *API) ListPools(context.Context) (*v1alpha1.IPAddressPoolList, error) {
	out := &v1alpha1.IPAddressPoolList{}
	err := a.call(Call{"list", "pools"}, func() error {
		for _, name := range slices.Sorted(maps.Keys(a.pools)) {
			out.Items = append(out.Items, *a.pools[name].DeepCopy())
		}
		return nil
	})
	return out, err
}

// ListServices implements store.API.
func (a *API) ListServices(context.Context) (*corev1.ServiceList, error) {
	out := &corev1.ServiceList{}
	err := a.call(Call{"list", "services"}, func() error {
		for _, id := range slices.Sorted(maps.Keys(a.services)) {
			out.Items = append(out.Items, *a.services[id].DeepCopy())
		}
		return nil
	})
	return out, err
}

// AllClaims returns the claims as they are now, by name.
func (a *API) AllClaims() []*v1alpha1.IPClaim {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []*v1alpha1.IPClaim
	for _, name := range slices.Sorted(maps.Keys(a.claims)) {
		out = append(out, a.claims[name].DeepCopy())
	}
	return out
}

// AllRecords returns the records as they are now, by namespace and name.
func (a *API) AllRecords() []*v1alpha1.LoadBalancer {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []*v1alpha1.LoadBalancer
	for _, id := range slices.Sorted(maps.Keys(a.records)) {
		out = append(out, a.records[id].DeepCopy())
	}
	return out
}
