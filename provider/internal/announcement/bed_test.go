// SPDX-License-Identifier: Apache-2.0

package announcement

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/provider/internal/announcement/fakeapi"
)

func vip() netip.Addr { return netip.MustParseAddr("172.20.255.200") }

func six() netip.Addr { return netip.MustParseAddr("fd00::1") }

// bed is a controller over fakes, inside a synctest bubble: a pool, an advertisement,
// three workers in one subnet and a control plane node that is excluded.
type bed struct {
	*Controller
	claims   *fakeapi.Store[*v1alpha1.IPClaim]
	records  *fakeapi.Store[*v1alpha1.LoadBalancer]
	pools    *fakeapi.Store[*v1alpha1.IPAddressPool]
	ads      *fakeapi.Store[*v1alpha1.L2Advertisement]
	agents   *fakeapi.Store[*v1alpha1.NodeAgent]
	nodes    *fakeapi.Store[*corev1.Node]
	services *fakeapi.Store[*corev1.Service]
	slices   *fakeapi.Store[*discoveryv1.EndpointSlice]
	events   *record.FakeRecorder

	peers       *fakeapi.Store[*v1alpha1.BGPPeer]
	bgpAds      *fakeapi.Store[*v1alpha1.BGPAdvertisement]
	profiles    *fakeapi.Store[*v1alpha1.BFDProfile]
	communities *fakeapi.Store[*v1alpha1.Community]
	// blind: the API server has no kinds of BGP.
	blind atomic.Bool
}

func start(t *testing.T) *bed {
	t.Helper()
	b := &bed{
		claims:   fakeapi.NewStore("ipclaims", &v1alpha1.IPClaim{}),
		records:  fakeapi.NewStore("loadbalancers", &v1alpha1.LoadBalancer{}),
		pools:    fakeapi.NewStore("ipaddresspools", &v1alpha1.IPAddressPool{}),
		ads:      fakeapi.NewStore("l2advertisements", &v1alpha1.L2Advertisement{}),
		agents:   fakeapi.NewStore("nodeagents", &v1alpha1.NodeAgent{}),
		nodes:    fakeapi.NewStore("nodes", &corev1.Node{}),
		services: fakeapi.NewStore("services", &corev1.Service{}),
		slices:   fakeapi.NewStore("endpointslices", &discoveryv1.EndpointSlice{}),
		events:   record.NewFakeRecorder(256),

		peers:       fakeapi.NewStore("bgppeers", &v1alpha1.BGPPeer{}),
		bgpAds:      fakeapi.NewStore("bgpadvertisements", &v1alpha1.BGPAdvertisement{}),
		profiles:    fakeapi.NewStore("bfdprofiles", &v1alpha1.BFDProfile{}),
		communities: fakeapi.NewStore("communities", &v1alpha1.Community{}),
	}
	b.pools.Put(t, &v1alpha1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: "my-ippool"}})
	b.ads.Put(t, &v1alpha1.L2Advertisement{
		ObjectMeta: metav1.ObjectMeta{Name: "my-l2"}, Spec: v1alpha1.L2AdvertisementSpec{IPAddressPools: []string{"my-ippool"}},
	})
	b.nodes.Put(t, testNode("control-plane", func(n *corev1.Node) { n.Labels[corev1.LabelNodeExcludeBalancers] = "" }))
	b.agents.Put(t, testAgent("control-plane", "172.20.0.2/16"))
	for i, name := range []string{"worker", "worker2", "worker3"} {
		b.nodes.Put(t, testNode(name, nil))
		b.agents.Put(t, testAgent(name, fmt.Sprintf("172.20.0.%d/16", 3+i)))
	}
	var err error
	b.Controller, err = New(Options{
		Claims: b.claims.In(""), Records: func(ns string) Patcher[*v1alpha1.LoadBalancer] { return b.records.In(ns) },
		Advertisements: b.ads.In(""), Peers: b.peers.In(""), BGPAdvertisements: b.bgpAds.In(""), Recorder: b.events,
		Informers: Informers{
			Claims: b.claims.Informer(), Records: b.records.Informer(), Pools: b.pools.Informer(), Advertisements: b.ads.Informer(),
			NodeAgents: b.agents.Informer(), Nodes: b.nodes.Informer(), Services: b.services.Informer(), EndpointSlices: b.slices.Informer(),
			BGP: BGP{
				Peers: b.peers.Informer(), Advertisements: b.bgpAds.Informer(), Profiles: b.profiles.Informer(),
				Communities: b.communities.Informer(), Absent: b.blind.Load,
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, run := range []func(context.Context){
		b.claims.Run, b.records.Run, b.pools.Run, b.ads.Run, b.agents.Run, b.nodes.Run, b.services.Run, b.slices.Run,
		b.peers.Run, b.bgpAds.Run, b.profiles.Run, b.communities.Run,
	} {
		wg.Go(func() { run(ctx) })
	}
	wg.Go(func() {
		if err := b.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	wait(t, time.Second)
	b.drain()
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

// drain empties the write logs and returns them as one.
func (b *bed) drain() []string {
	return slices.Concat(b.claims.Log(), b.records.Log(), b.ads.Log(), b.peers.Log(), b.bgpAds.Log())
}

func (b *bed) wantNoWrite(t *testing.T) {
	t.Helper()
	if log := b.drain(); len(log) > 0 {
		t.Errorf("writes %v, want none", log)
	}
}

func (b *bed) takeEvents() []string {
	var out []string
	for len(b.events.Events) > 0 {
		out = append(out, <-b.events.Events)
	}
	return out
}

func address(i int) v1alpha1.LoadBalancerAddress {
	ip := fmt.Sprintf("172.20.%d.%d", 255-i/250, i%250)
	return v1alpha1.LoadBalancerAddress{Address: ip, Pool: "my-ippool", Claim: ip}
}

func svc(i int) *corev1.Service {
	name := fmt.Sprintf("svc%d", i)
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{
		Namespace: "default", Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{"app": name},
	}}
}

// allocate does what allocation does: Service, proposal, claim, record; with a ready pod.
func (b *bed) allocate(t *testing.T, i int) Proposal {
	t.Helper()
	s := svc(i)
	b.services.Put(t, s)
	b.slices.Put(t, endpointSlice(s.Name, "worker"))
	addr := address(i)
	p := b.Propose(s, []v1alpha1.LoadBalancerAddress{addr})
	b.claims.Put(t, &v1alpha1.IPClaim{
		ObjectMeta: metav1.ObjectMeta{Name: addr.Claim},
		Spec: v1alpha1.IPClaimSpec{
			Address: addr.Address, Pool: addr.Pool, Group: addr.Claim, Phase: v1alpha1.ClaimBound, Successors: p.Successors,
			Services: []v1alpha1.ServiceReference{{Namespace: s.Namespace, Name: s.Name, UID: s.UID}},
		},
	})
	b.records.Put(t, &v1alpha1.LoadBalancer{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name},
		Spec: v1alpha1.LoadBalancerSpec{
			ServiceUID: s.UID, Addresses: []v1alpha1.LoadBalancerAddress{addr}, Advertisements: p.Advertisements,
			ExternalTrafficPolicy: v1alpha1.TrafficPolicyCluster, TargetType: v1alpha1.TargetPod, Forwarding: v1alpha1.ForwardingKubeProxy,
		},
	})
	return p
}

func endpointSlice(service, nodeName string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
		Namespace: "default", Name: service + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service},
	}}
	if nodeName != "" {
		s.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{"10.10.1.2"}, NodeName: &nodeName}}
	}
	return s
}

// own does what an agent does when it takes an address over.
func (b *bed) own(t *testing.T, i int, nodeName string, epoch int64) {
	t.Helper()
	claim, _ := b.claims.Find(address(i).Claim)
	claim.Status.Owner = &v1alpha1.Owner{Node: nodeName, Epoch: epoch, Since: metav1.NewTime(time.Now().Truncate(time.Second))}
	b.claims.Put(t, claim)
}

func (b *bed) condition(t *testing.T, i int, name string) metav1.Condition {
	t.Helper()
	r, found := b.records.Find("default/" + svc(i).Name)
	if !found {
		t.Fatal("no record")
	}
	c := meta.FindStatusCondition(r.Status.Conditions, name)
	if c == nil {
		t.Fatalf("no condition %s in %+v", name, r.Status)
	}
	return *c
}

func (b *bed) successorsOf(t *testing.T, i int) []string {
	t.Helper()
	claim, found := b.claims.Find(address(i).Claim)
	if !found {
		t.Fatal("no claim")
	}
	return claim.Spec.Successors
}

func (b *bed) wantWrites(t *testing.T, what string, n int) {
	t.Helper()
	log := b.drain()
	got := len(log) - len(slices.DeleteFunc(slices.Clone(log), func(s string) bool { return s == what }))
	if got != n {
		t.Errorf("%d times %q in %v, want %d", got, what, log, n)
	}
}
