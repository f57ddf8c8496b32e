// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

const (
	// servicePort of every Service, by TCP and by UDP.
	servicePort = 80
	// serveTimeout bounds the time from a Service's creation until all nodes forward it.
	serveTimeout = 4 * time.Minute
)

// Service is what one is made of.
type Service struct {
	Name string
	// Local is the external traffic policy; NodePort the target type.
	Local, NodePort bool
	IPv6            bool
	// LeaveToProxy asks for kube-proxy's data plane.
	LeaveToProxy bool
	Annotations  map[string]string
	// Change, if set, changes the object before it is created.
	Change func(s *corev1.Service)
	// Pods that are its ready endpoints; Terminating ones still serve.
	Pods, Terminating []*Pod
}

func (s *Service) family() corev1.IPFamily {
	if s.IPv6 {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// Create makes the Service and its endpoints.
func (w *World) Create(ctx context.Context, s *Service) error {
	single := corev1.IPFamilyPolicySingleStack
	obj := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: s.Name, Namespace: rig.Namespace, Annotations: map[string]string{}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{s.family()}, IPFamilyPolicy: &single,
			Ports: []corev1.ServicePort{
				{Name: "tcp", Protocol: corev1.ProtocolTCP, Port: servicePort, TargetPort: intstr.FromInt32(podPort)},
				{Name: "udp", Protocol: corev1.ProtocolUDP, Port: servicePort, TargetPort: intstr.FromInt32(podPort)},
			},
		},
	}
	if s.Local {
		obj.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	if s.NodePort {
		obj.Annotations[v1alpha1.AnnotationTargetType] = string(v1alpha1.TargetNodePort)
	}
	obj.Annotations[v1alpha1.AnnotationDataPlane] = string(v1alpha1.ForwardingIPVS)
	if s.LeaveToProxy {
		obj.Annotations[v1alpha1.AnnotationDataPlane] = string(v1alpha1.ForwardingKubeProxy)
	}
	maps.Copy(obj.Annotations, s.Annotations)
	if s.Change != nil {
		s.Change(obj)
	}
	if _, err := w.Rig.Kube().CoreV1().Services(rig.Namespace).Create(ctx, obj, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create %s: %w", s.Name, err)
	}
	return w.SetEndpoints(ctx, s)
}

// SetEndpoints makes the Service's pods its endpoints, in the order given.
func (w *World) SetEndpoints(ctx context.Context, s *Service) error {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: s.Name + "-pods", Namespace: rig.Namespace, Labels: map[string]string{
			discoveryv1.LabelServiceName: s.Name, discoveryv1.LabelManagedBy: "dataplane.fairlead.dev",
		}},
		AddressType: discoveryv1.AddressType(s.family()),
	}
	yes, no, port := true, false, int32(podPort)
	for _, p := range []struct {
		name  string
		proto corev1.Protocol
	}{{"tcp", corev1.ProtocolTCP}, {"udp", corev1.ProtocolUDP}, {"sctp", corev1.ProtocolSCTP}} {
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &p.name, Port: &port, Protocol: &p.proto})
	}
	for _, p := range slices.Concat(s.Pods, s.Terminating) {
		ready, terminating := &yes, &no
		if slices.Contains(s.Terminating, p) {
			ready, terminating = &no, &yes
		}
		a, name := p.IPv4, p.Node.Name()
		if s.IPv6 {
			a = p.IPv6
		}
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{a.String()}, NodeName: &name,
			Conditions: discoveryv1.EndpointConditions{Ready: ready, Serving: &yes, Terminating: terminating},
		})
	}
	return w.writeSlice(ctx, slice)
}

func (w *World) writeSlice(ctx context.Context, slice *discoveryv1.EndpointSlice) error {
	slices := w.Rig.Kube().DiscoveryV1().EndpointSlices(rig.Namespace)
	_, err := slices.Update(ctx, slice, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = slices.Create(ctx, slice, metav1.CreateOptions{})
	}
	if err != nil {
		return fmt.Errorf("write endpoints: %w", err)
	}
	return nil
}

// Served waits until the Services have addresses and every node forwards them as they ask
// for: the status says so by its ipMode. It returns the address of each.
func (w *World) Served(ctx context.Context, services ...*Service) (map[*Service]netip.Addr, error) {
	out := map[*Service]netip.Addr{}
	_, err := harness.Eventually(ctx, serveTimeout, func(ctx context.Context) error {
		list, err := w.Rig.Kube().CoreV1().Services(rig.Namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("list services: %w", err)
		}
		var errs []error
		for _, s := range services {
			i := slices.IndexFunc(list.Items, func(o corev1.Service) bool { return o.Name == s.Name })
			if i < 0 {
				errs = append(errs, fmt.Errorf("%s is not there", s.Name))
				continue
			}
			a, err := served(&list.Items[i], s)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			out[s] = a
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return nil, errors.Join(err, w.Rig.Err(), w.explain(ctx))
	}
	return out, nil
}

func served(o *corev1.Service, s *Service) (netip.Addr, error) {
	if len(o.Status.LoadBalancer.Ingress) == 0 {
		return netip.Addr{}, fmt.Errorf("%s has no address", s.Name)
	}
	in := o.Status.LoadBalancer.Ingress[0]
	want := corev1.LoadBalancerIPModeProxy
	if s.LeaveToProxy {
		want = corev1.LoadBalancerIPModeVIP
	}
	if in.IPMode == nil || *in.IPMode != want {
		return netip.Addr{}, fmt.Errorf("%s: %s does not have ipMode %s", s.Name, in.IP, want)
	}
	a, err := netip.ParseAddr(in.IP)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%s: %w", s.Name, err)
	}
	return a, nil
}

// explain says what records and agents have to say about forwarding.
func (w *World) explain(ctx context.Context) error {
	var errs []error
	agents, err := w.Rig.API().NodeAgents().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list agents: %w", err)
	}
	for i := range agents.Items {
		errs = append(errs, fmt.Errorf("agent of %s: %+v", agents.Items[i].Name, agents.Items[i].Status.DataPlane))
	}
	records, err := w.Rig.API().LoadBalancers(rig.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list records: %w", err)
	}
	for i := range records.Items {
		r := &records.Items[i]
		for _, c := range r.Status.Conditions {
			if c.Status != metav1.ConditionTrue {
				errs = append(errs, fmt.Errorf("record %s: %s=%s %s: %s", r.Name, c.Type, c.Status, c.Reason, c.Message))
			}
		}
	}
	return errors.Join(errs...)
}

// Owner is the node that announces an address, when there is one.
func (w *World) Owner(ctx context.Context, a netip.Addr) (n *rig.Node, err error) {
	_, err = harness.Eventually(ctx, serveTimeout, func(ctx context.Context) (err error) {
		n, err = w.owner(ctx, a)
		return err
	})
	return n, err //nolint:wrapcheck // says what it is
}

func (w *World) owner(ctx context.Context, a netip.Addr) (*rig.Node, error) {
	owners, err := w.Rig.Owners(ctx)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it is
	}
	for _, n := range w.Rig.Nodes() {
		if n.Name() == owners[a].Node {
			return n, nil
		}
	}
	return nil, fmt.Errorf("nobody announces %s", a)
}

// Remove deletes Services and waits until they are gone. There is no garbage collector here:
// the record of a Service without our finalizer, one with external IPs, goes by this.
func (w *World) Remove(ctx context.Context, services ...*Service) error {
	api := w.Rig.Kube().CoreV1().Services(rig.Namespace)
	for _, s := range services {
		if o, err := api.Get(ctx, s.Name, metav1.GetOptions{}); err == nil {
			w.removed = append(w.removed, o.Spec.ClusterIPs...)
		}
		if err := api.Delete(ctx, s.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete %s: %w", s.Name, err)
		}
	}
	_, err := harness.Eventually(ctx, serveTimeout, func(ctx context.Context) error {
		for _, s := range services {
			if _, err := api.Get(ctx, s.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return errors.Join(err, fmt.Errorf("%s is still there", s.Name))
			}
		}
		return nil
	})
	if err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	for _, s := range services {
		if err := w.Rig.API().LoadBalancers(rig.Namespace).Delete(ctx, s.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete the record of %s: %w", s.Name, err)
		}
	}
	return nil
}
