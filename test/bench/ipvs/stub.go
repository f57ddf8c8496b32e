// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// stub is as much of an API server as kube-proxy asks: Services, their endpoints, its node
// and the ranges of Services, from memory, and changes of endpoints. A real one with 5,000
// Services would take the processors that kube-proxy is measured on.
type stub struct {
	services, nodes, ranges []runtime.Object

	mu      sync.Mutex
	slices  []*discoveryv1.EndpointSlice // guarded by mu
	version int                          // guarded by mu
	watches map[chan runtime.Object]struct{}
}

// serviceAddress, and the addresses that it has outside and of its endpoints, by number.
func serviceAddress(i int) netip.Addr { return numbered(10, 96, i) }

func outsideAddress(i int) netip.Addr { return numbered(198, 18, i) }

func podAddress(i, block int) netip.Addr { return numbered(172, block, i) }

func numbered(a, b, i int) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(a), byte(b), byte(i >> 8), byte(i)}) //nolint:gosec // up to 65,535 of them
}

const (
	stubNode  = "n0"
	endpoints = 3
	stubPort  = 8080
)

func newStub(services int) *stub {
	s := &stub{watches: make(map[chan runtime.Object]struct{}), version: 1}
	no := false
	vip := corev1.LoadBalancerIPModeVIP
	for i := range services {
		name := fmt.Sprintf("svc-%05d", i)
		s.services = append(s.services, &corev1.Service{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
			ObjectMeta: meta(name),
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeLoadBalancer, ClusterIP: serviceAddress(i).String(), ClusterIPs: []string{serviceAddress(i).String()},
				IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, AllocateLoadBalancerNodePorts: &no, SessionAffinity: corev1.ServiceAffinityNone,
				ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyCluster,
				Ports:                 []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 80}},
			},
			Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{
				Ingress: []corev1.LoadBalancerIngress{{IP: outsideAddress(i).String(), IPMode: &vip}},
			}},
		})
		s.slices = append(s.slices, slice(i, 16, 17, 18))
	}
	node := &corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: meta(stubNode)}
	node.Namespace = ""
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: nodeAddress}}
	node.Spec.PodCIDR, node.Spec.PodCIDRs = "172.16.0.0/16", []string{"172.16.0.0/16"}
	s.nodes = []runtime.Object{node}
	ranges := &networkingv1.ServiceCIDR{TypeMeta: metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "ServiceCIDR"}, ObjectMeta: meta("kubernetes")}
	ranges.Namespace = ""
	ranges.Spec.CIDRs = []string{"10.96.0.0/12"}
	s.ranges = []runtime.Object{ranges}
	return s
}

func meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: "d", UID: types.UID(name), ResourceVersion: "1"}
}

// slice has one endpoint in each block of addresses.
func slice(i int, blocks ...int) *discoveryv1.EndpointSlice {
	yes, no, port, protocol, empty := true, false, int32(stubPort), corev1.ProtocolTCP, ""
	name := fmt.Sprintf("svc-%05d", i)
	out := &discoveryv1.EndpointSlice{
		TypeMeta:    metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta:  meta(name),
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &empty, Port: &port, Protocol: &protocol}},
	}
	out.Labels = map[string]string{discoveryv1.LabelServiceName: name}
	for j, block := range blocks {
		node := fmt.Sprintf("n%d", j) // the first is kube-proxy's own
		out.Endpoints = append(out.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{podAddress(i, block).String()}, NodeName: &node,
			Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no},
		})
	}
	return out
}

// replaceEndpoint has one endpoint of a Service go and one come.
func (s *stub) replaceEndpoint(i int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	s.slices[i] = slice(i, 16, 30, 18)
	s.slices[i].ResourceVersion = strconv.Itoa(s.version)
	for w := range s.watches {
		w <- s.slices[i]
	}
}

// serve answers on loopback until ctx ends, and returns the URL.
func (s *stub) serve(ctx context.Context) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("serve the objects: %w", err)
	}
	srv := &http.Server{Handler: s, ReadHeaderTimeout: time.Minute, BaseContext: func(net.Listener) context.Context { return ctx }}
	go func() { _ = srv.Serve(l) }() // ends with the next
	context.AfterFunc(ctx, func() { _ = srv.Close() })
	return "http://" + l.Addr().String(), nil
}

// ServeHTTP answers lists and watches of either kind.
func (s *stub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	var objects []runtime.Object
	var kind schema.GroupVersionKind
	var changes chan runtime.Object
	s.mu.Lock()
	version := s.version
	switch {
	case strings.HasSuffix(r.URL.Path, "/services"):
		objects, kind = s.services, corev1.SchemeGroupVersion.WithKind("Service")
	case strings.HasSuffix(r.URL.Path, "/endpointslices"):
		for _, o := range s.slices {
			objects = append(objects, o)
		}
		kind = discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice")
		if r.URL.Query().Get("watch") != "" {
			changes = make(chan runtime.Object, 100)
			s.watches[changes] = struct{}{}
		}
	case strings.HasSuffix(r.URL.Path, "/nodes"):
		objects, kind = s.nodes, corev1.SchemeGroupVersion.WithKind("Node")
	case strings.HasSuffix(r.URL.Path, "/nodes/"+stubNode):
		s.mu.Unlock()
		reply(w, s.nodes[0])
		return
	case strings.HasSuffix(r.URL.Path, "/servicecidrs"):
		objects, kind = s.ranges, networkingv1.SchemeGroupVersion.WithKind("ServiceCIDR")
	case strings.HasSuffix(r.URL.Path, "/version"):
		s.mu.Unlock()
		_, _ = fmt.Fprint(w, `{"major":"1","minor":"37","gitVersion":"v1.37.1"}`) // a client that went away does not care
		return
	default: // events
		s.mu.Unlock()
		w.WriteHeader(http.StatusNotFound)
		reply(w, &metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Reason: metav1.StatusReasonNotFound, Code: http.StatusNotFound})
		return
	}
	s.mu.Unlock()
	if r.URL.Query().Get("watch") == "" {
		reply(w, map[string]any{
			"apiVersion": kind.GroupVersion().String(), "kind": kind.Kind + "List",
			"metadata": map[string]string{"resourceVersion": strconv.Itoa(version)}, "items": objects,
		})
		return
	}
	s.watch(w, r, kind, objects, version, changes)
}

func reply(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) } // a client that went away does not care

// watch streams what there is, if it is asked for, and then changes.
func (s *stub) watch(w http.ResponseWriter, r *http.Request, kind schema.GroupVersionKind, objects []runtime.Object, version int, changes chan runtime.Object) {
	defer func() {
		s.mu.Lock()
		delete(s.watches, changes)
		s.mu.Unlock()
	}()
	flush := func() {
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
		}
	}
	event := func(of string, o any) { reply(w, map[string]any{"type": of, "object": o}) }
	if r.URL.Query().Get("sendInitialEvents") == "true" {
		for _, o := range objects {
			event("ADDED", o)
		}
		event("BOOKMARK", map[string]any{
			"apiVersion": kind.GroupVersion().String(), "kind": kind.Kind,
			"metadata": map[string]any{"resourceVersion": strconv.Itoa(version), "annotations": map[string]string{metav1.InitialEventsAnnotationKey: "true"}},
		})
	}
	flush()
	for {
		select {
		case <-r.Context().Done():
			return
		case o := <-changes:
			event("MODIFIED", o)
			flush()
		}
	}
}
