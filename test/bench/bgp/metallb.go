// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-lb/fairlead/test/bench/bgp/field"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/plane"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
	"github.com/fairlead-lb/fairlead/test/harness/routers"
)

const metallbText = `%s, in its native mode (the only one without a router beside it), in the same network namespace after the agent had ended; the same routers. Its addresses are
those of real Services whose status was written beforehand, each with one endpoint, without its controller; it is told to begin and to end by the node selector of its BGPAdvertisement, and one change is the
endpoint of one Service that goes or comes back.
`

const metallbObjects = `
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: many, namespace: metallb-system}
spec: {addresses: [198.18.0.0/17]}
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {name: many, namespace: metallb-system}
spec: {ipAddressPools: [many], nodeSelectors: [{matchLabels: {bench: tell}}]}
`

// metallb is its speaker on the first node.
type metallb struct {
	f     *field.Field
	proc  *plane.Process
	addrs []netip.Addr
}

// measureMetalLB measures the speaker like our agent, which is ended before.
func measureMetalLB(ctx context.Context, c *Config, f *field.Field) (_ []Routes, version string, err error) {
	n := f.Nodes()[0]
	if err := errors.Join(f.StopController(), n.Terminate()); err != nil {
		return nil, "", err
	}
	if err := f.InstallMetalLB(ctx, metallbObjects); err != nil {
		return nil, "", err //nolint:wrapcheck // says what it is
	}
	m := &metallb{f: f}
	if m.proc, err = f.StartSpeaker(ctx, c.MetalLB, n); err != nil {
		return nil, "", err //nolint:wrapcheck // says what it is
	}
	_, err = harness.Eventually(ctx, time.Minute, func(ctx context.Context) error {
		return errors.Join(m.proc.Err(), routers.WantEstablished(ctx, f.FRR, n.IPv4()), routers.WantEstablished(ctx, f.BIRD, n.IPv4()))
	})
	if err != nil {
		return nil, "", errors.Join(err, m.proc.Stop())
	}
	out, err := measureRoutes(ctx, c, f, m)
	return out, moduleOf(c.MetalLB), errors.Join(err, m.proc.Err(), m.proc.Stop())
}

func (m *metallb) process() *plane.Process { return m.proc }

func (m *metallb) addresses() []netip.Addr { return m.addrs }

func (m *metallb) tell(ctx context.Context, yes bool) (time.Time, error) { return m.f.Tell(ctx, yes) }

func (m *metallb) name(a netip.Addr) string { return fmt.Sprintf("m-%x", a.As4()) }

// grow makes Services with an address and an endpoint.
func (m *metallb) grow(ctx context.Context, n int) error {
	work := make(chan netip.Addr)
	errs := make([]error, 16)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for a := range work {
				if errs[i] == nil {
					errs[i] = m.create(ctx, a)
				}
			}
		})
	}
	next := field.First // of the field's own Service
	for len(m.addrs) < n {
		next = next.Next()
		if len(m.addrs) > 0 {
			next = m.addrs[len(m.addrs)-1].Next()
		}
		m.addrs = append(m.addrs, next)
		work <- next
	}
	close(work)
	wg.Wait()
	return errors.Join(errs...)
}

func (m *metallb) create(ctx context.Context, a netip.Addr) error {
	services := m.f.Kube().CoreV1().Services(rig.Namespace)
	s, err := services.Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: m.name(a), Namespace: rig.Namespace, Annotations: map[string]string{"metallb.io/ip-allocated-from-pool": "many"}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}, AllocateLoadBalancerNodePorts: new(bool),
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create a Service: %w", err)
	}
	if err := m.come(ctx, a); err != nil {
		return err
	}
	_, err = services.Patch(ctx, s.Name, types.MergePatchType, []byte(`{"status":{"loadBalancer":{"ingress":[{"ip":"`+a.String()+`"}]}}}`), metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("give a Service its address: %w", err)
	}
	return nil
}

// come gives the Service of an address an endpoint.
func (m *metallb) come(ctx context.Context, a netip.Addr) error {
	yes, port, proto, node := true, int32(80), corev1.ProtocolTCP, m.f.Nodes()[0].Name()
	_, err := m.f.Kube().DiscoveryV1().EndpointSlices(rig.Namespace).Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: m.name(a), Namespace: rig.Namespace, Labels: map[string]string{discoveryv1.LabelServiceName: m.name(a)}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: &port, Protocol: &proto}},
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{"10.244.0.9"}, NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create an endpoint: %w", err)
	}
	return nil
}

// leave takes it away.
func (m *metallb) leave(ctx context.Context, a netip.Addr) error {
	if err := m.f.Kube().DiscoveryV1().EndpointSlices(rig.Namespace).Delete(ctx, m.name(a), metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("delete an endpoint: %w", err)
	}
	return nil
}

// moduleOf says what a program was built from.
func moduleOf(program string) string {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return program
	}
	return info.Main.Path + " " + info.Main.Version
}
