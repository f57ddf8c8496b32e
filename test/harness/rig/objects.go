// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/harness"
)

// Namespace of the Services that [Rig.CreateServices] makes.
const Namespace = "rig"

// posters create objects at the same time, as in the measurements of others.
const posters = 16

// scenario has room for 16,384 addresses of IPv4 and 65,536 of IPv6.
const scenario = `apiVersion: v1
kind: Namespace
metadata: {name: rig}
---
apiVersion: fairlead.dev/v1alpha1
kind: IPAddressPool
metadata: {name: rig}
spec: {addresses: [10.30.64.0/18, "fd00:30::1:0/112"], serviceAllocation: {namespaces: [rig]}}
---
apiVersion: fairlead.dev/v1alpha1
kind: L2Advertisement
metadata: {name: rig}
spec: {ipAddressPools: [rig]}
`

// createNode makes a Node that is Ready.
func (r *Rig) createNode(ctx context.Context, n *Node) error {
	pods4, pods6 := n.PodRanges()
	_, err := r.Kube().CoreV1().Nodes().Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.name, Labels: map[string]string{corev1.LabelHostname: n.name, corev1.LabelOSStable: "linux"}},
		Spec:       corev1.NodeSpec{PodCIDR: pods4.String(), PodCIDRs: []string{pods4.String(), pods6.String()}},
		Status: corev1.NodeStatus{
			Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: n.ip4.Addr().String()},
				{Type: corev1.NodeInternalIP, Address: n.ip6.Addr().String()},
				{Type: corev1.NodeHostName, Address: n.name},
			},
			Conditions: []corev1.NodeCondition{{
				Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "ByHand", LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now(),
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create the node: %w", err)
	}
	return nil
}

func (r *Rig) deleteNode(ctx context.Context, n *Node) error {
	err := r.Kube().CoreV1().Nodes().Delete(ctx, n.name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete node %s: %w", n.name, err)
	}
	return nil
}

// ServiceOptions for [Rig.CreateServices].
type ServiceOptions struct {
	// From, To are the numbers of the first Service and of the one after the last.
	From, To int
	// DualStack gives each an address of either family, else one of IPv4.
	DualStack bool
	// Local sets externalTrafficPolicy: Local; see [Rig.SetEndpoints].
	Local bool
	// Posting, if set, is called before each is posted, by several goroutines.
	Posting func(name string)
}

// ServiceName of a number.
func ServiceName(n int) string { return fmt.Sprintf("s%05d", n) }

// ApplyScenario makes the namespace, a pool and an advertisement for Services of the rig.
func (r *Rig) ApplyScenario(ctx context.Context) error {
	return r.plane.Create(ctx, scenario)
}

// CreateServices makes Services of type LoadBalancer as fast as the API server answers.
// Their pods are nobody's concern here.
func (r *Rig) CreateServices(ctx context.Context, o ServiceOptions) error {
	return parallel(o.From, o.To, func(i int) error {
		s := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: ServiceName(i), Namespace: Namespace},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeLoadBalancer, Selector: map[string]string{"app": "none"},
				Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}, AllocateLoadBalancerNodePorts: new(bool),
			},
		}
		if o.DualStack {
			policy := corev1.IPFamilyPolicyRequireDualStack
			s.Spec.IPFamilyPolicy = &policy
		}
		if o.Local {
			s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}
		if o.Posting != nil {
			o.Posting(s.Name)
		}
		if _, err := r.Kube().CoreV1().Services(Namespace).Create(ctx, s, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create %s: %w", s.Name, err)
		}
		return nil
	})
}

// DeleteServices deletes the Services from..to and waits until they are gone.
func (r *Rig) DeleteServices(ctx context.Context, from, to int) error {
	err := parallel(from, to, func(i int) error {
		err := r.Kube().CoreV1().Services(Namespace).Delete(ctx, ServiceName(i), metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete %s: %w", ServiceName(i), err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	_, err = harness.Eventually(ctx, settleTimeout, func(ctx context.Context) error {
		for i := from; i < to; i++ {
			_, err := r.Kube().CoreV1().Services(Namespace).Get(ctx, ServiceName(i), metav1.GetOptions{})
			if !apierrors.IsNotFound(err) {
				return errors.Join(err, fmt.Errorf("%s is still there", ServiceName(i)))
			}
		}
		return nil
	})
	return err
}

// parallel calls f for from..to-1 by some workers, each of which stops at its first error.
func parallel(from, to int, f func(i int) error) error {
	work := make(chan int)
	errs := make([]error, posters)
	var wg sync.WaitGroup
	for w := range posters {
		wg.Go(func() {
			for i := range work {
				if errs[w] == nil {
					errs[w] = f(i)
				}
			}
		})
	}
	for i := from; i < to; i++ {
		work <- i
	}
	close(work)
	wg.Wait()
	return errors.Join(errs...)
}

// SetEndpoints replaces the endpoints of one Service by one ready endpoint on each node.
func (r *Rig) SetEndpoints(ctx context.Context, service string, nodes ...*Node) error {
	yes, port, proto := true, int32(80), corev1.ProtocolTCP
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: service + "-rig", Namespace: Namespace, Labels: map[string]string{
			discoveryv1.LabelServiceName: service, discoveryv1.LabelManagedBy: "rig.fairlead.dev",
		}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: &port, Protocol: &proto}},
	}
	for i, n := range nodes {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.244.%d.%d", i/250, i%250+1)}, NodeName: &n.name,
			Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes},
		})
	}
	slices := r.Kube().DiscoveryV1().EndpointSlices(Namespace)
	_, err := slices.Update(ctx, slice, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = slices.Create(ctx, slice, metav1.CreateOptions{})
	}
	if err != nil {
		return fmt.Errorf("set the endpoints of %s: %w", service, err)
	}
	return nil
}

// Addresses of all Services that have some, by Service name.
func (r *Rig) Addresses(ctx context.Context) (map[string][]netip.Addr, error) {
	list, err := r.Kube().CoreV1().Services(Namespace).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, fmt.Errorf("list services: %w", err)
	}
	out := make(map[string][]netip.Addr, len(list.Items))
	for i := range list.Items {
		for _, text := range harness.Addresses(&list.Items[i]) {
			a, err := netip.ParseAddr(text)
			if err != nil {
				return nil, fmt.Errorf("address of %s: %w", list.Items[i].Name, err)
			}
			out[list.Items[i].Name] = append(out[list.Items[i].Name], a)
		}
	}
	return out, nil
}

// Owners returns who announces each address according to the claims, and since which epoch.
func (r *Rig) Owners(ctx context.Context) (map[netip.Addr]v1alpha1.Owner, error) {
	list, err := r.api.Claims().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, fmt.Errorf("list claims: %w", err)
	}
	out := make(map[netip.Addr]v1alpha1.Owner, len(list.Items))
	for i := range list.Items {
		c := &list.Items[i]
		a, err := netip.ParseAddr(c.Spec.Address)
		if err != nil {
			return nil, fmt.Errorf("address of claim %s: %w", c.Name, err)
		}
		if c.Status.Owner != nil {
			out[a] = *c.Status.Owner
		}
	}
	return out, nil
}
