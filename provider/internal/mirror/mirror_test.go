// SPDX-License-Identifier: Apache-2.0

package mirror_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/provider/internal/announcement/fakeapi"
	"github.com/fairlead-lb/fairlead/provider/internal/mirror"
)

const namespace = "metallb-system"

func gvr(resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "metallb.io", Version: "v1beta1", Resource: resource}
}

// bed is a mirror over fakes, inside a synctest bubble.
type bed struct {
	dynamic *dynamicfake.FakeDynamicClient
	kube    *fake.Clientset
	pools   *fakeapi.Store[*v1alpha1.IPAddressPool]
	ads     *fakeapi.Store[*v1alpha1.L2Advertisement]
	// What configures BGP.
	peers       *fakeapi.Store[*v1alpha1.BGPPeer]
	bgp         *fakeapi.Store[*v1alpha1.BGPAdvertisement]
	profiles    *fakeapi.Store[*v1alpha1.BFDProfile]
	communities *fakeapi.Store[*v1alpha1.Community]
	events      *record.FakeRecorder
	// absent makes the metallb.io kinds unknown to the API server.
	absent atomic.Bool
	// noPeers keeps the cache of BGPPeers from being filled.
	noPeers bool
}

func start(t *testing.T, mode mirror.Mode, prepare func(b *bed)) *bed {
	t.Helper()
	b := &bed{
		dynamic: dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
			gvr("ipaddresspools"): "IPAddressPoolList", gvr("l2advertisements"): "L2AdvertisementList",
			gvr("bgppeers"): "BGPPeerList", gvr("bgpadvertisements"): "BGPAdvertisementList", gvr("bfdprofiles"): "BFDProfileList",
			gvr("communities"): "CommunityList", gvr("addresspools"): "AddressPoolList",
			gvr("bgppeers").GroupResource().WithVersion("v1beta2"):      "BGPPeerList",
			gvr("addresspools").GroupResource().WithVersion("v1alpha1"): "AddressPoolList",
		}),
		kube:        fake.NewClientset(),
		pools:       fakeapi.NewStore("ipaddresspools", &v1alpha1.IPAddressPool{}),
		ads:         fakeapi.NewStore("l2advertisements", &v1alpha1.L2Advertisement{}),
		peers:       fakeapi.NewStore("bgppeers", &v1alpha1.BGPPeer{}),
		bgp:         fakeapi.NewStore("bgpadvertisements", &v1alpha1.BGPAdvertisement{}),
		profiles:    fakeapi.NewStore("bfdprofiles", &v1alpha1.BFDProfile{}),
		communities: fakeapi.NewStore("communities", &v1alpha1.Community{}),
		events:      record.NewFakeRecorder(64),
	}
	b.dynamic.PrependReactor("list", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
		return b.absent.Load(), nil, apierrors.NewNotFound(schema.GroupResource{Group: "metallb.io"}, "")
	})
	prepare(b)
	c, err := mirror.New(mirror.Options{
		Mode: mode, Namespace: namespace, Dynamic: b.dynamic, Kube: b.kube,
		Pools: b.pools.In(""), Advertisements: b.ads.In(""),
		Peers: b.peers.In(""), BGPAdvertisements: b.bgp.In(""), Profiles: b.profiles.In(""), Communities: b.communities.In(""),
		PoolInformer: b.pools.Informer(), AdvertisementInformer: b.ads.Informer(), PeerInformer: b.peers.Informer(),
		BGPAdvertisementInformer: b.bgp.Informer(), ProfileInformer: b.profiles.Informer(), CommunityInformer: b.communities.Informer(),
		Recorder: b.events,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, run := range []func(context.Context){b.pools.Run, b.ads.Run, b.bgp.Run, b.profiles.Run, b.communities.Run} {
		wg.Go(func() { run(ctx) })
	}
	wg.Go(func() {
		if b.noPeers {
			<-ctx.Done() // the store ends what it began with
		}
		b.peers.Run(ctx)
	})
	wg.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	wait(t, time.Second)
	return b
}

func wait(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-t.Context().Done():
	case <-time.After(d):
	}
	synctest.Wait()
}

func (b *bed) takeEvents() []string {
	var out []string
	for len(b.events.Events) > 0 {
		out = append(out, <-b.events.Events)
	}
	return out
}

// wantEvent checks that there is exactly one event and that it has the reason.
func (b *bed) wantEvent(t *testing.T, reason string) {
	t.Helper()
	got := b.takeEvents()
	if len(got) != 1 || !strings.HasPrefix(got[0], "Warning "+reason+" ") {
		t.Errorf("events %v, want one Warning %s", got, reason)
	}
}

func object(kind, ns, name string, labels map[string]string, spec map[string]any) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	u.SetAPIVersion("metallb.io/v1beta1")
	u.SetKind(kind)
	u.SetNamespace(ns)
	u.SetName(name)
	u.SetUID(types.UID(kind + ns + name))
	u.SetLabels(labels)
	return u
}

func pool(ns, name string, addresses ...any) *unstructured.Unstructured {
	return object("IPAddressPool", ns, name, nil, map[string]any{"addresses": addresses})
}

func (b *bed) create(t *testing.T, resource string, u *unstructured.Unstructured) {
	t.Helper()
	if _, err := b.dynamic.Resource(gvr(resource)).Namespace(u.GetNamespace()).Create(t.Context(), u, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (b *bed) update(t *testing.T, resource string, u *unstructured.Unstructured) {
	t.Helper()
	if _, err := b.dynamic.Resource(gvr(resource)).Namespace(u.GetNamespace()).Update(t.Context(), u, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (b *bed) delete(t *testing.T, resource, ns, name string) {
	t.Helper()
	if err := b.dynamic.Resource(gvr(resource)).Namespace(ns).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func mirrored(name string, labels map[string]string) metav1.ObjectMeta {
	all := map[string]string{v1alpha1.LabelSource: "metallb.io"}
	maps.Copy(all, labels)
	return metav1.ObjectMeta{Name: name, Labels: all, Annotations: map[string]string{v1alpha1.AnnotationSourceObject: namespace + "/" + name}}
}

func (b *bed) wantPool(t *testing.T, name string, want *v1alpha1.IPAddressPool) {
	t.Helper()
	got, found := b.pools.Find(name)
	if !found || want == nil {
		if found || want != nil {
			t.Errorf("pool %s: found %t, want %t", name, found, want != nil)
		}
		return
	}
	if diff := cmp.Diff(want.Spec, got.Spec); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]any{want.Labels, want.Annotations}, []any{got.Labels, got.Annotations}); diff != "" {
		t.Errorf("labels and annotations (-want +got):\n%s", diff)
	}
}

// Every field arrives, with labels, source and the defaults that the API server adds.
func TestMirrorsEveryField(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, mirror.Auto, func(*bed) {})
		sel := []any{map[string]any{"matchLabels": map[string]any{"a": "b"}}}
		want := []metav1.LabelSelector{{MatchLabels: map[string]string{"a": "b"}}}
		b.create(t, "ipaddresspools", object("IPAddressPool", namespace, "p", map[string]string{"zone": "x"}, map[string]any{
			"addresses": []any{"172.20.255.200-172.20.255.250"}, "autoAssign": false, "avoidBuggyIPs": true,
			"serviceAllocation": map[string]any{
				"priority": int64(7), "namespaces": []any{"n", "n"}, "namespaceSelectors": sel, "serviceSelectors": sel,
			},
		}))
		b.create(t, "ipaddresspools", pool(namespace, "plain", "10.0.0.0/24"))
		b.create(t, "l2advertisements", object("L2Advertisement", namespace, "ad", nil, map[string]any{
			"ipAddressPools": []any{"p", "p"}, "ipAddressPoolSelectors": sel, "nodeSelectors": sel, "serviceSelectors": sel, "interfaces": []any{"eth0"},
			"preferredNodeSelectors": []any{map[string]any{"weight": int64(10), "preference": sel[0]}},
		}))
		wait(t, time.Second)
		b.wantPool(t, "p", &v1alpha1.IPAddressPool{ObjectMeta: mirrored("p", map[string]string{"zone": "x"}), Spec: v1alpha1.IPAddressPoolSpec{
			Addresses: []string{"172.20.255.200-172.20.255.250"}, AutoAssign: new(false), AvoidBuggyIPs: true, ReclaimPolicy: v1alpha1.ReclaimDelete,
			ServiceAllocation: &v1alpha1.ServiceAllocation{Priority: 7, Namespaces: []string{"n"}, NamespaceSelectors: want, ServiceSelectors: want},
		}})
		b.wantPool(t, "plain", &v1alpha1.IPAddressPool{
			ObjectMeta: mirrored("plain", nil), Spec: v1alpha1.IPAddressPoolSpec{Addresses: []string{"10.0.0.0/24"}, AutoAssign: new(true), ReclaimPolicy: v1alpha1.ReclaimDelete},
		})
		ad, _ := b.ads.Find("ad")
		if diff := cmp.Diff(v1alpha1.L2AdvertisementSpec{
			IPAddressPools: []string{"p"}, IPAddressPoolSelectors: want, NodeSelectors: want, ServiceSelectors: want, Interfaces: []string{"eth0"},
			PreferredNodeSelectors: []v1alpha1.PreferredNodeSelector{{Weight: 10, Preference: want[0]}},
		}, ad.Spec); diff != "" {
			t.Errorf("advertisement (-want +got):\n%s", diff)
		}
		if got := b.takeEvents(); len(got) != 0 {
			t.Errorf("events %v, want none", got)
		}
	})
}

// An advertisement without a spec is MetalLB's way to announce every pool.
func TestMirrorsAnAdvertisementWithoutSpec(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, mirror.Auto, func(*bed) {})
		all := object("L2Advertisement", namespace, "all", nil, nil)
		delete(all.Object, "spec")
		b.create(t, "l2advertisements", all)
		wait(t, time.Second)
		ad, found := b.ads.Find("all")
		if diff := cmp.Diff(v1alpha1.L2AdvertisementSpec{}, ad.Spec); !found || diff != "" {
			t.Errorf("found %t, spec (-want +got):\n%s", found, diff)
		}
	})
}

// The copy follows its source, is repaired, survives failing writes, and goes with it.
func TestFollowsTheSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, mirror.Auto, func(*bed) {})
		b.create(t, "ipaddresspools", pool(namespace, "p", "10.0.0.0/24"))
		wait(t, time.Second)
		failures := 3
		b.pools.FailWith(func(string, string) error {
			failures--
			if failures >= 0 {
				return errors.New("injected")
			}
			return nil
		})
		b.update(t, "ipaddresspools", pool(namespace, "p", "10.0.1.0/24"))
		wait(t, 10*time.Second)
		want := &v1alpha1.IPAddressPool{
			ObjectMeta: mirrored("p", nil), Spec: v1alpha1.IPAddressPoolSpec{Addresses: []string{"10.0.1.0/24"}, AutoAssign: new(true), ReclaimPolicy: v1alpha1.ReclaimDelete},
		}
		b.wantPool(t, "p", want)

		edited, _ := b.pools.Find("p")
		edited.Spec.Addresses = []string{"10.9.9.0/24"}
		b.pools.Put(t, edited)
		wait(t, time.Second)
		b.wantPool(t, "p", want)

		b.pools.Remove("p")
		wait(t, time.Second)
		b.wantPool(t, "p", want)

		b.pools.Log()
		wait(t, time.Hour)
		if log := b.pools.Log(); len(log) != 0 {
			t.Errorf("writes %v without a change", log)
		}
		b.delete(t, "ipaddresspools", namespace, "p")
		wait(t, time.Second)
		b.wantPool(t, "p", nil)
	})
}

// A status that Fairlead wrote on the copy stays when the source changes.
func TestKeepsTheStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, mirror.Auto, func(*bed) {})
		b.create(t, "ipaddresspools", pool(namespace, "p", "10.0.0.0/24"))
		wait(t, time.Second)
		p, _ := b.pools.Find("p")
		p.Status.AssignedIPv4 = 5
		b.pools.Put(t, p)
		b.update(t, "ipaddresspools", pool(namespace, "p", "10.0.1.0/24"))
		wait(t, time.Second)
		if p, _ := b.pools.Find("p"); p.Status.AssignedIPv4 != 5 || p.Spec.Addresses[0] != "10.0.1.0/24" {
			t.Errorf("got %+v %+v", p.Spec, p.Status)
		}
	})
}

func TestRefusals(t *testing.T) {
	own := &v1alpha1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: v1alpha1.IPAddressPoolSpec{Addresses: []string{"10.7.0.0/24"}}}
	for _, tc := range []struct {
		name    string
		prepare func(t *testing.T, b *bed)
		source  *unstructured.Unstructured
		reason  string
		// want is the one address of pool p afterwards, empty for no pool.
		want string
	}{
		{name: "another namespace", source: pool("default", "p", "10.0.0.0/24"), reason: "WrongNamespace"},
		{
			name: "name taken by a user's own object", source: pool(namespace, "p", "10.0.0.0/24"), reason: "NameTaken", want: "10.7.0.0/24",
			prepare: func(t *testing.T, b *bed) { t.Helper(); b.pools.Put(t, own) },
		},
		{name: "wrong type", source: pool(namespace, "p", map[string]any{"from": "a"}), reason: "InvalidAddresses"},
		{
			name: "refused by the API server", source: pool(namespace, "p", "banana"), reason: "InvalidAddresses",
			prepare: func(_ *testing.T, b *bed) {
				b.pools.FailWith(func(string, string) error {
					return apierrors.NewInvalid(schema.GroupKind{Kind: "IPAddressPool"}, "p", nil)
				})
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := start(t, mirror.Auto, func(b *bed) {
					if tc.prepare != nil {
						tc.prepare(t, b)
					}
				})
				b.create(t, "ipaddresspools", tc.source)
				wait(t, time.Hour)
				b.wantEvent(t, tc.reason)
				got, found := b.pools.Find("p")
				if found != (tc.want != "") || (found && !slices.Equal(got.Spec.Addresses, []string{tc.want})) {
					t.Errorf("pool %+v, want addresses %q", got, tc.want)
				}
			})
		})
	}
}

// A name becomes free: the object that waited for it is mirrored.
func TestNameBecomesFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, mirror.Auto, func(b *bed) {
			b.pools.Put(t, &v1alpha1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: "p"}})
		})
		b.create(t, "ipaddresspools", pool(namespace, "p", "10.0.0.0/24"))
		wait(t, time.Second)
		b.pools.Remove("p")
		wait(t, time.Second)
		b.wantPool(t, "p", &v1alpha1.IPAddressPool{
			ObjectMeta: mirrored("p", nil), Spec: v1alpha1.IPAddressPoolSpec{Addresses: []string{"10.0.0.0/24"}, AutoAssign: new(true), ReclaimPolicy: v1alpha1.ReclaimDelete},
		})
	})
}

func metallb(labels map[string]string) *appsv1.DaemonSet {
	return &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "speaker", Labels: labels}}
}

// A MetalLB runs: nothing is mirrored, what was is withdrawn, and all returns after it.
func TestMetalLBRunning(t *testing.T) {
	for name, labels := range map[string]map[string]string{
		"manifest": {"app": "metallb", "component": "speaker"},
		"chart":    {"app.kubernetes.io/name": "metallb"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := start(t, mirror.Auto, func(*bed) {})
				b.create(t, "ipaddresspools", pool(namespace, "p", "10.0.0.0/24"))
				wait(t, time.Second)
				if _, found := b.pools.Find("p"); !found {
					t.Fatal("not mirrored before MetalLB came")
				}
				sets := b.kube.AppsV1().DaemonSets(namespace)
				if _, err := sets.Create(t.Context(), metallb(labels), metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
				wait(t, time.Hour)
				b.wantPool(t, "p", nil)
				b.wantEvent(t, "MetalLBRunning")
				if err := sets.Delete(t.Context(), "speaker", metav1.DeleteOptions{}); err != nil {
					t.Fatal(err)
				}
				wait(t, time.Second)
				if _, found := b.pools.Find("p"); !found {
					t.Error("not mirrored after MetalLB went")
				}
			})
		})
	}
}

func TestModes(t *testing.T) {
	for _, tc := range []struct {
		name   string
		mode   mirror.Mode
		labels map[string]string
		want   bool
	}{
		{"auto beside something else", mirror.Auto, map[string]string{"app": "other"}, true},
		{"auto beside MetalLB", mirror.Auto, map[string]string{"app": "metallb"}, false},
		{"forced beside MetalLB", mirror.Force, map[string]string{"app": "metallb"}, true},
		{"off", mirror.Off, nil, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := start(t, tc.mode, func(b *bed) {
					if _, err := b.kube.AppsV1().DaemonSets(namespace).Create(t.Context(), metallb(tc.labels), metav1.CreateOptions{}); err != nil {
						t.Fatal(err)
					}
				})
				b.create(t, "ipaddresspools", pool(namespace, "p", "10.0.0.0/24"))
				wait(t, time.Minute)
				if _, found := b.pools.Find("p"); found != tc.want {
					t.Errorf("mirrored %t, want %t", found, tc.want)
				}
			})
		})
	}
}

// The kinds come after start, and go again: orphans go with them, and with nothing else.
func TestKindsComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, mirror.Auto, func(b *bed) {
			b.absent.Store(true)
			b.pools.Put(t, &v1alpha1.IPAddressPool{ObjectMeta: mirrored("orphan", nil)})
			b.pools.Put(t, &v1alpha1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: "own"}})
		})
		if _, found := b.pools.Find("orphan"); found {
			t.Error("orphan is left although its kind does not exist")
		}
		if _, found := b.pools.Find("own"); !found {
			t.Error("a user's own pool was deleted")
		}
		b.absent.Store(false)
		b.create(t, "ipaddresspools", pool(namespace, "p", "10.0.0.0/24"))
		wait(t, 12*time.Second)
		if _, found := b.pools.Find("p"); !found {
			t.Fatal("not mirrored after the kind came")
		}
		b.absent.Store(true)
		wait(t, 25*time.Second)
		if _, found := b.pools.Find("p"); found {
			t.Error("left although the kind is gone")
		}
	})
}

// An API server that fails says nothing about the kinds: nothing is deleted.
func TestFailingAPIDeletesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, mirror.Auto, func(b *bed) {
			b.pools.Put(t, &v1alpha1.IPAddressPool{ObjectMeta: mirrored("p", nil)})
			b.dynamic.PrependReactor("list", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, apierrors.NewServiceUnavailable("injected")
			})
		})
		wait(t, time.Hour)
		if _, found := b.pools.Find("p"); !found {
			t.Error("deleted while the API server failed")
		}
	})
}

func TestNewRefusesMissingInputs(t *testing.T) {
	if _, err := mirror.New(mirror.Options{}); err == nil {
		t.Error("no error for empty options")
	}
}
