// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/provider/internal/store"
)

// PutPool creates or replaces a pool, as a user does.
func (a *API) PutPool(p *v1alpha1.IPAddressPool) {
	a.user(func() {
		obj := p.DeepCopy()
		if old := a.pools[p.Name]; old != nil {
			obj.UID, obj.Generation, obj.ResourceVersion = old.UID, old.Generation+1, a.next()
		} else {
			a.stamp(&obj.ObjectMeta)
		}
		a.pools[p.Name] = obj
		a.tell(func(s *store.Store) { s.ObservePool(obj.DeepCopy()) })
	})
}

// PutService creates or replaces a Service, as a user does; its UID is the caller's.
func (a *API) PutService(svc *corev1.Service) {
	a.user(func() {
		a.putService(svc.DeepCopy())
	})
}

// DeleteService removes a Service, as a user does by force.
func (a *API) DeleteService(svc *corev1.Service) {
	a.user(func() {
		delete(a.services, svc.Namespace+"/"+svc.Name)
		a.tell(func(s *store.Store) { s.ForgetService(svc.DeepCopy()) })
	})
}

// RemoveClaim deletes a claim, as the claims controller does after its quarantine.
func (a *API) RemoveClaim(name string) {
	a.user(func() {
		old := a.claims[name]
		if old == nil {
			return
		}
		last := old.DeepCopy()
		last.ResourceVersion = a.next()
		delete(a.claims, name)
		a.tell(func(s *store.Store) { s.ForgetClaim(last) })
	})
}

// user runs somebody else's write: no hook, no log.
func (a *API) user(f func()) {
	a.mu.Lock()
	f()
	var pending []func()
	if !a.held {
		pending, a.pending = a.pending, nil
	}
	a.mu.Unlock()
	for _, f := range pending {
		f()
	}
}

// Service returns a Service as it is now, nil when there is none.
func (a *API) Service(namespace, name string) *corev1.Service {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.services[namespace+"/"+name].DeepCopy()
}

// PutPolicy creates or replaces the policy of external IPs, as a user does.
func (a *API) PutPolicy(p *v1alpha1.ExternalIPPolicy) {
	a.user(func() {
		a.policy = p.DeepCopy()
		a.policy.Name, a.policy.ResourceVersion = v1alpha1.ExternalIPPolicyName, a.next()
		obj := a.policy
		a.tell(func(s *store.Store) { s.ObservePolicy(obj.DeepCopy()) })
	})
}

// PutClaim creates or replaces a claim, as a user or another controller does.
func (a *API) PutClaim(c *v1alpha1.IPClaim) {
	a.user(func() {
		obj := c.DeepCopy()
		if old := a.claims[c.Name]; old != nil {
			obj.UID, obj.Generation, obj.ResourceVersion = old.UID, old.Generation+1, a.next()
		} else {
			a.stamp(&obj.ObjectMeta)
		}
		a.putClaim(obj)
	})
}

// SetCondition sets a condition of a record, as the announcement controller does.
func (a *API) SetCondition(namespace, name string, c metav1.Condition) {
	a.user(func() {
		id := namespace + "/" + name
		obj := a.records[id].DeepCopy()
		meta.SetStatusCondition(&obj.Status.Conditions, c)
		obj.ResourceVersion = a.next()
		a.putRecord(id, obj)
	})
}

// EndService deletes a Service as a user does: it lives on, marked, while it has finalizers.
func (a *API) EndService(namespace, name string) {
	a.user(func() {
		svc := a.services[namespace+"/"+name]
		if svc == nil {
			return
		}
		obj := svc.DeepCopy()
		obj.DeletionTimestamp = &metav1.Time{Time: obj.CreationTimestamp.Add(1)}
		a.putService(obj)
	})
}

// CollectGarbage deletes the records whose Service is gone, as kube-controller-manager does
// by their owner references.
func (a *API) CollectGarbage() {
	a.user(func() {
		alive := make(map[types.UID]bool, len(a.services))
		for _, svc := range a.services {
			alive[svc.UID] = true
		}
		for id, r := range a.records {
			if len(r.OwnerReferences) != 1 || alive[r.OwnerReferences[0].UID] {
				continue
			}
			last := r.DeepCopy()
			last.ResourceVersion = a.next()
			delete(a.records, id)
			a.tell(func(s *store.Store) { s.ForgetRecord(last) })
		}
	})
}

// PatchService writes an updated copy's finalizers and status, if the Service still is the
// version that the old copy is of. The last finalizer of a marked Service ends it.
func (a *API) PatchService(old, updated *corev1.Service) (*corev1.Service, error) {
	id := old.Namespace + "/" + old.Name
	services := schema.GroupResource{Resource: "services"}
	var obj *corev1.Service
	err := a.call(Call{"patch", "service/" + id}, func() error {
		now := a.services[id]
		switch {
		case now == nil:
			return apierrors.NewNotFound(services, old.Name)
		case now.UID != old.UID || now.ResourceVersion != old.ResourceVersion:
			return apierrors.NewConflict(services, old.Name, nil)
		}
		obj = now.DeepCopy()
		obj.Finalizers, obj.Status = slices.Clone(updated.Finalizers), *updated.Status.DeepCopy()
		a.putService(obj)
		return nil
	})
	return obj.DeepCopy(), err
}

// putService stores a Service, or ends it; mu is held.
func (a *API) putService(obj *corev1.Service) {
	id := obj.Namespace + "/" + obj.Name
	obj.ResourceVersion = a.next()
	if obj.DeletionTimestamp != nil && len(obj.Finalizers) == 0 {
		delete(a.services, id)
		a.tell(func(s *store.Store) { s.ForgetService(obj.DeepCopy()) })
		return
	}
	a.services[id] = obj
	a.tell(func(s *store.Store) { s.ObserveService(obj.DeepCopy()) })
}
