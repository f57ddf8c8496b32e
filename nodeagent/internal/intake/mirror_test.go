// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// history changes copies at random.
type history struct {
	*rand.Rand
	t *testing.T
	i *Intake
}

func (h *history) pick(of ...string) string { return of[h.IntN(len(of))] }

func (h *history) step() {
	name := fmt.Sprint(h.IntN(6))
	meta := metav1.ObjectMeta{Namespace: "d", Name: name}
	var inf cache.SharedIndexInformer
	var obj runtime.Object
	switch h.IntN(6) {
	case 0, 1:
		inf, meta.Namespace, meta.Name = h.i.claims, "", "192.0.2."+name
		c := &v1alpha1.IPClaim{ObjectMeta: meta}
		c.Spec.Address = h.pick(meta.Name, meta.Name, meta.Name, "192.0.2.99") // which contradicts its name
		c.Spec.Group, c.Spec.Phase = h.pick(meta.Name, "g"), v1alpha1.ClaimBound
		c.Spec.Services = []v1alpha1.ServiceReference{{UID: types.UID(h.pick("a", "b"))}}
		obj = c
	case 2, 3:
		lb := record(name, v1alpha1.TrafficPolicyCluster)
		if h.IntN(2) == 0 {
			lb.Spec.ExternalTrafficPolicy = v1alpha1.TrafficPolicyLocal
		}
		lb.Spec.ServiceUID = types.UID(name)
		if h.IntN(20) == 0 {
			lb.Spec.ServiceUID = types.UID(fmt.Sprint(h.IntN(6))) // another one's
		}
		inf, obj = h.i.records, lb
	case 4:
		s := slice(name, h.pick("n1", "n2"))
		s.Name = name + h.pick("-1", "-2")
		if h.IntN(10) == 0 {
			s.Labels = nil
		}
		inf, obj = h.i.slices, s
	default:
		if h.IntN(3) == 0 {
			ad := &v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: name}}
			ad.Spec.NodeSelectors = []metav1.LabelSelector{{MatchLabels: map[string]string{"rack": h.pick("r1", "r2")}}}
			inf, obj = h.i.ads, ad
			break
		}
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: h.pick("n1", "n2", "n3"), Labels: map[string]string{"rack": h.pick("r1", "r2")}}}
		if h.IntN(4) == 0 {
			n.Annotations = map[string]string{v1alpha1.AnnotationWeight: h.pick("1", "2")}
		}
		inf, obj = h.i.nodes, n
	}
	if h.IntN(4) == 0 {
		drop(h.t, h.i, inf, obj)
		return
	}
	put(h.t, h.i, inf, obj)
}

// fresh is what an intake has that reads the same copies for the first time.
func (h *history) fresh() Objects {
	anew := copies(h.t)
	to := anew.informers()
	for n, from := range h.i.informers() {
		for _, obj := range from.GetStore().List() {
			if err := to[n].GetIndexer().Add(obj); err != nil {
				h.t.Fatal(err)
			}
		}
	}
	return anew.Objects(h.t.Context())
}

// kept is a copy of what is valid until the next Objects only.
func kept(o Objects) Objects {
	o.Claims, o.Records, o.Endpoints = slices.Clone(o.Claims), maps.Clone(o.Records), maps.Clone(o.Endpoints)
	return o
}

func byName(claims []loadbalancer.Claim) map[loadbalancer.Group]loadbalancer.Claim {
	out := make(map[loadbalancer.Group]loadbalancer.Claim, len(claims))
	for _, c := range claims {
		out[c.Name] = c
	}
	return out
}

// others are the keys whose values differ.
func others[K cmp.Ordered, V any](a, b map[K]V) []K {
	var out []K
	for k, v := range a {
		if w, ok := b[k]; !ok || !reflect.DeepEqual(v, w) {
			out = append(out, k)
		}
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			out = append(out, k)
		}
	}
	return out
}

// Objects that were read bit by bit are those that are read at once, and what changed in
// between is told.
func TestObjectsFollowEveryChange(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		h := &history{rand.New(rand.NewPCG(seed, 1)), t, copies(t)}
		before := kept(h.i.Objects(t.Context()))
		for step := range 60 {
			for range 1 + h.IntN(3) {
				h.step()
			}
			got, want := kept(h.i.Objects(t.Context())), h.fresh()
			diff := gocmp.Diff(want, got, cmpopts.IgnoreFields(Objects{}, "Changed"), cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty(),
				cmpopts.SortSlices(func(a, b loadbalancer.Claim) bool { return a.Name < b.Name }))
			if diff != "" {
				t.Fatalf("seed %d, step %d (-anew +bit by bit):\n%s", seed, step, diff)
			}
			if got.Changed.All {
				before = got
				continue
			}
			for _, name := range others(byName(before.Claims), byName(got.Claims)) {
				is, told := got.Changed.Claims[name]
				if was, known := byName(before.Claims)[name]; !told || known != (is.Before != nil) || known && !reflect.DeepEqual(was, *is.Before) {
					t.Fatalf("seed %d, step %d: claim %s changed, told: %t, %+v", seed, step, name, told, is)
				}
				if is.Now != nil && !reflect.DeepEqual(*is.Now, byName(got.Claims)[name]) {
					t.Fatalf("seed %d, step %d: claim %s is told to be %+v", seed, step, name, is.Now)
				}
			}
			for _, uid := range append(others(before.Records, got.Records), withOtherEndpoints(before, got)...) {
				if _, told := got.Changed.Records[uid]; !told {
					t.Fatalf("seed %d, step %d: nobody tells that record %s changed, or its endpoints", seed, step, uid)
				}
			}
			before = got
		}
	}
}

// withOtherEndpoints are records whose Services have others than before.
func withOtherEndpoints(before, now Objects) []loadbalancer.ServiceUID {
	var out []loadbalancer.ServiceUID
	for uid, r := range now.Records {
		if !reflect.DeepEqual(before.Endpoints[r.Service], now.Endpoints[r.Service]) {
			out = append(out, uid)
		}
	}
	return out
}

// Where nothing changed, nothing is told, and maps stay the same ones.
func TestObjectsTellNothingOfNothing(t *testing.T) {
	t.Parallel()
	i := copies(t)
	put(t, i, i.nodes, ownNode(map[string]string{"rack": "r1"}))
	put(t, i, i.claims, &v1alpha1.IPClaim{ObjectMeta: metav1.ObjectMeta{Name: "192.0.2.1"}, Spec: v1alpha1.IPClaimSpec{Address: "192.0.2.1", Phase: v1alpha1.ClaimBound}})
	first := i.Objects(t.Context())
	put(t, i, i.nodes, ownNode(map[string]string{"rack": "r1"})) // a heartbeat
	again := i.Objects(t.Context())
	if reflect.ValueOf(first.Nodes).Pointer() != reflect.ValueOf(again.Nodes).Pointer() {
		t.Error("equal nodes are others")
	}
	if c := again.Changed; c.All || len(c.Claims)+len(c.Records) > 0 {
		t.Errorf("changed: %+v, want nothing", c)
	}
}

// feed is an API server with some objects and some events to come.
type feed struct {
	items  map[string][]any
	begin  chan struct{}
	events map[string][]any
}

func (f *feed) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kind := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	w.Header().Set("Content-Type", "application/json")
	e, q := json.NewEncoder(w), r.URL.Query()
	switch {
	case q.Get("sendInitialEvents") == "true":
		w.WriteHeader(http.StatusUnprocessableEntity)
		_ = e.Encode(metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonInvalid, Code: http.StatusUnprocessableEntity})
	case q.Get("watch") == "":
		_ = e.Encode(map[string]any{"metadata": map[string]any{"resourceVersion": "1"}, "items": append([]any{}, f.items[kind]...)})
	default:
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
			return
		case <-f.begin:
		}
		for _, event := range f.events[kind] {
			_ = e.Encode(event)
		}
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
}

func event(how string, obj any) any { return map[string]any{"type": how, "object": obj} }

// Events reach the copies that are read bit by bit, those that wake nobody too.
func TestEventsReachTheCopies(t *testing.T) {
	t.Parallel()
	lb := record("svc", v1alpha1.TrafficPolicyLocal)
	lb.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha1.SchemeGroupVersion().String(), Kind: "LoadBalancer"}
	lb.UID, lb.Generation, lb.Spec.ServiceUID = "u", 1, "u"
	gone := record("gone", v1alpha1.TrafficPolicyLocal)
	gone.TypeMeta, gone.Spec.ServiceUID = lb.TypeMeta, "gone"
	status := lb.DeepCopy()
	status.ResourceVersion = "7" // which is all that is new in it
	s := slice("svc", "n1")
	s.TypeMeta = metav1.TypeMeta{APIVersion: discoveryv1.SchemeGroupVersion.String(), Kind: "EndpointSlice"}
	moved := s.DeepCopy()
	other := "n2"
	moved.Endpoints[0].NodeName, moved.ResourceVersion = &other, "8"
	gone.ResourceVersion = "9"
	f := &feed{
		items: map[string][]any{"loadbalancers": {lb, gone}, "endpointslices": {s}}, begin: make(chan struct{}),
		events: map[string][]any{
			"loadbalancers":  {event("MODIFIED", status), event("DELETED", gone)},
			"endpointslices": {event("MODIFIED", moved)},
		},
	}
	i := serve(t, f)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if !i.WaitSynced(ctx) {
		t.Fatal("not synced")
	}
	key := loadbalancer.ServiceKey{Namespace: "d", Name: "svc"}
	if got := i.Objects(ctx); len(got.Records) != 2 || len(got.Endpoints[key].Nodes) != 1 {
		t.Fatalf("%+v", got)
	}
	close(f.begin)
	for {
		got := i.Objects(ctx)
		if _, there := got.Endpoints[key].Nodes["n2"]; there && len(got.Records) == 1 && got.Records["u"].Revision == "7" {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("after the events: %+v", got)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
