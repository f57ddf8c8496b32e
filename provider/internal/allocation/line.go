// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/provider/internal/store"
)

// opening is a Service that waits for addresses.
type opening struct {
	uid     types.UID
	key     loadbalancer.ServiceKey
	created metav1.Time
	// told is the failure told last: reasons and messages.
	told []failure
	// waits: it stands in line for an address that anybody may have.
	waits bool
	// full is the message that it waits with, when nothing but a free address of the
	// pools that the message names can help.
	full string
	// tried is the store's count of freed addresses before the last attempt.
	tried uint64
	// vouched: the service controller has its finalizer in place, whatever a cache says.
	vouched bool
	// stuck Services keep nobody waiting: the API server refuses their writes, or
	// nobody may serve them at present.
	stuck bool
}

// age orders a line: the oldest Service first.
func age(aCreated metav1.Time, a loadbalancer.ServiceKey, bCreated metav1.Time, b loadbalancer.ServiceKey) int {
	return cmp.Or(aCreated.Compare(bCreated.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// ticket returns a Service's place in the line: behind every older one that waits. It
// may take an address that anybody may have only if nothing has come free since those
// were asked.
func (a *Allocator) ticket(svc *corev1.Service) store.Ticket {
	a.mu.Lock()
	defer a.mu.Unlock()
	var t store.Ticket
	for _, o := range a.open {
		if o.uid != svc.UID && age(o.created, o.key, svc.CreationTimestamp, convert.Key(svc)) < 0 {
			t = o.before(t)
		}
	}
	return t
}

// before returns the ticket of somebody who has to let o go first, beside t. Whatever o
// waits for, what has come free since it was asked may be that: a pool that is back may
// hold the very address that it names, and that a younger one would take as any.
func (o *opening) before(t store.Ticket) store.Ticket {
	if o.stuck {
		return t
	}
	if !t.Behind {
		return store.Ticket{Behind: true, Freed: o.tried}
	}
	t.Freed = min(t.Freed, o.tried)
	return t
}

// line returns the Services that wait, the oldest first.
func (a *Allocator) line() []opening {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]opening, 0, len(a.open))
	for _, o := range a.open {
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b opening) int { return age(a.created, a.key, b.created, b.key) })
	return out
}

// opening returns a Service's place among those that wait.
func (a *Allocator) opening(key loadbalancer.ServiceKey) (opening, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o, ok := a.open[key]
	return o, ok
}

// change changes the opening of a Service, if it waits.
func (a *Allocator) change(key loadbalancer.ServiceKey, f func(*opening)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if o, ok := a.open[key]; ok {
		f(&o)
		a.open[key] = o
	}
}

// wait puts a Service among those that wait, or changes its place there.
func (a *Allocator) wait(svc *corev1.Service, f func(*opening)) {
	key := convert.Key(svc)
	a.mu.Lock()
	defer a.mu.Unlock()
	o, ok := a.open[key]
	if !ok || o.uid != svc.UID {
		o = opening{uid: svc.UID, key: key, created: svc.CreationTimestamp}
	}
	f(&o)
	a.open[key] = o
}

// close ends a Service's waiting and the condition that says so, which may be an
// earlier leader's.
func (a *Allocator) close(key loadbalancer.ServiceKey, uid types.UID) {
	a.mu.Lock()
	if a.open[key].uid == uid {
		delete(a.open, key)
	}
	a.mu.Unlock()
	a.announcer.AllocationSucceeded(key)
}
