// SPDX-License-Identifier: Apache-2.0

package provider_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/names"
	genericcontrollermanager "k8s.io/controller-manager/app"
	"k8s.io/controller-manager/controller"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/provider"
)

func parse(t *testing.T, text string) provider.Config {
	t.Helper()
	c, err := provider.ParseConfig([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestParseConfig(t *testing.T) {
	t.Parallel()
	const head = "apiVersion: fairlead.dev/v1alpha1\nkind: CloudConfig\n"
	tests := []struct {
		name, text string
		manage     bool
		mirror     provider.MirrorMode
		namespace  string
	}{
		{"nothing", "", true, provider.MirrorAuto, "metallb-system"},
		{"a comment", "# later\n---\n", true, provider.MirrorAuto, "metallb-system"},
		{"an empty second document", head + "---\n# nothing\n", true, provider.MirrorAuto, "metallb-system"},
		{"only the head", head, true, provider.MirrorAuto, "metallb-system"},
		{"everything", head + "nodes: {manage: false}\nmetallb: {mirror: Force, namespace: mlb}\n", false, provider.MirrorForce, "mlb"},
		{"a bare Off", head + "metallb: {mirror: Off}\n", true, provider.MirrorOff, "metallb-system"},
		{"a quoted Off", head + "metallb: {mirror: \"Off\"}\n", true, provider.MirrorOff, "metallb-system"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := parse(t, tt.text)
			if *c.Nodes.Manage != tt.manage || c.MetalLB.Mirror != tt.mirror || c.MetalLB.Namespace != tt.namespace {
				t.Errorf("got %+v, manage %v", c, *c.Nodes.Manage)
			}
		})
	}
}

func TestReadConfig(t *testing.T) {
	t.Parallel()
	if _, err := provider.ReadConfig(""); err != nil {
		t.Errorf("no file: %v", err)
	}
	if _, err := provider.ReadConfig(filepath.Join(t.TempDir(), "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an absent file: %v", err)
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("apiVersion: fairlead.dev/v1alpha1\nkind: CloudConfig\nnodes: {manage: true}\n"))
	f.Add([]byte("metallb: {mirror: {}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := provider.ParseConfig(data)
		if err != nil {
			return
		}
		if c.Nodes.Manage == nil || c.MetalLB.Namespace == "" ||
			!slices.Contains([]provider.MirrorMode{provider.MirrorAuto, provider.MirrorForce, provider.MirrorOff}, c.MetalLB.Mirror) {
			t.Errorf("ParseConfig(%q) = %+v", data, c)
		}
	})
}

func newProvider(t *testing.T, config string) *provider.Provider {
	t.Helper()
	p, err := provider.New(provider.Options{
		Config: parse(t, config), Namespace: "fairlead-system", REST: &rest.Config{Host: "127.0.0.1:1"},
		SharedInformers: informers.NewSharedInformerFactory(fake.NewClientset(), 0),
		Broadcaster:     record.NewBroadcaster(record.WithContext(t.Context())),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestProvider(t *testing.T) {
	t.Parallel()
	p := newProvider(t, "")
	if _, ok := p.LoadBalancer(); !ok || p.ProviderName() != "fairlead" || !p.HasClusterID() {
		t.Error("not the provider it should be")
	}
	_, v1 := p.Instances()
	_, zones := p.Zones()
	_, clusters := p.Clusters()
	_, routes := p.Routes()
	if v1 || zones || clusters || routes {
		t.Error("something unsupported is supported")
	}
	if _, ok := p.InstancesV2(); !ok {
		t.Error("nodes are not managed by default")
	}
	off := newProvider(t, "apiVersion: fairlead.dev/v1alpha1\nkind: CloudConfig\nnodes: {manage: false}\n")
	if _, ok := off.InstancesV2(); ok {
		t.Error("nodes are managed though switched off")
	}
}

func TestControllers(t *testing.T) {
	t.Parallel()
	p := newProvider(t, "")
	all := provider.Controllers()
	if _, ok := all[names.NodeRouteController]; ok {
		t.Error("the route controller is there")
	}
	for alias, name := range provider.Aliases() {
		if _, ok := all[name]; !ok {
			t.Errorf("alias %s stands for %s, which is not there", alias, name)
		}
	}
	for _, name := range []string{
		names.CloudNodeController, names.CloudNodeLifecycleController, names.ServiceLBController,
		"service-address", "ip-claim", "ip-address-pool", "announcement", "metallb-mirror", "gossip-key", "external-ip-policy",
	} {
		if _, ok := all[name]; !ok {
			t.Errorf("controller %s is missing", name)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	c := all[provider.ServiceAddressController]
	started, enabled, err := c.Constructor(c.InitContext, nil, p)(ctx, genericcontrollermanager.ControllerContext{})
	if err != nil || !enabled {
		t.Fatalf("started %v, error %v", enabled, err)
	}
	if started.Name() != provider.ServiceAddressController {
		t.Errorf("name %q", started.Name())
	}
	h, ok := started.(controller.HealthCheckable)
	if !ok {
		t.Fatal("the controller has no health")
	}
	if err := h.HealthChecker().Check(nil); err != nil {
		t.Errorf("health while running: %v", err)
	}
	stop()
	for deadline := time.Now().Add(5 * time.Second); h.HealthChecker().Check(nil) == nil; {
		if time.Now().After(deadline) {
			t.Fatal("health holds though the controller has ended")
		}
		<-time.After(time.Millisecond)
	}
}

func nodeWith(annotation string, addrs ...corev1.NodeAddress) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "worker"}, Status: corev1.NodeStatus{Addresses: addrs}}
	if annotation != "" {
		n.Annotations = map[string]string{"alpha.kubernetes.io/provided-node-ip": annotation}
	}
	return n
}

func TestInstances(t *testing.T) {
	t.Parallel()
	internal := func(a string) corev1.NodeAddress {
		return corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a}
	}
	host := func(a string) corev1.NodeAddress {
		return corev1.NodeAddress{Type: corev1.NodeHostName, Address: a}
	}
	agent := &v1alpha1.NodeAgent{Status: v1alpha1.NodeAgentStatus{DefaultRouteAddresses: []string{"172.20.0.9", "2001:db8::9"}}}
	tests := []struct {
		name  string
		node  *corev1.Node
		agent *v1alpha1.NodeAgent
		want  []corev1.NodeAddress
	}{
		{"the kubelet's --node-ip", nodeWith("172.20.0.2"), nil, []corev1.NodeAddress{internal("172.20.0.2"), host("worker")}},
		{"two of them", nodeWith("172.20.0.2,2001:db8::2", host("w1")), agent, []corev1.NodeAddress{internal("172.20.0.2"), internal("2001:db8::2"), host("w1")}},
		{"what is there stays", nodeWith("", internal("172.20.0.2"), host("w1"), corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "203.0.113.1"}), agent, []corev1.NodeAddress{
			internal("172.20.0.2"), host("w1"), {Type: corev1.NodeExternalIP, Address: "203.0.113.1"},
		}},
		{"what the agent found", nodeWith("", host("worker")), agent, []corev1.NodeAddress{host("worker"), internal("172.20.0.9"), internal("2001:db8::9")}},
		{"nothing known yet", nodeWith("", host("worker")), nil, nil},
		{"nonsense in the annotation", nodeWith("worker.local"), nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			i := provider.NewInstances(func(string) *v1alpha1.NodeAgent { return tt.agent })
			m, err := i.InstanceMetadata(t.Context(), tt.node)
			if tt.want == nil {
				if err == nil {
					t.Errorf("a node without an InternalIP got %v", m)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&cloudprovider.InstanceMetadata{ProviderID: "fairlead://worker", NodeAddresses: tt.want}, m); diff != "" {
				t.Errorf("metadata (-want +got):\n%s", diff)
			}
			exists, errE := i.InstanceExists(t.Context(), tt.node)
			shutdown, errS := i.InstanceShutdown(t.Context(), tt.node)
			if !exists || shutdown || errE != nil || errS != nil {
				t.Errorf("exists %v, shutdown %v", exists, shutdown)
			}
		})
	}
}

// Upstream tells an event per Service for each change of the set of nodes, unless the
// answer is ImplementedElsewhere, which it compares bare.
func TestUpdateLoadBalancerSaysNothing(t *testing.T) {
	t.Parallel()
	lb, _ := newProvider(t, "").LoadBalancer()
	err := lb.UpdateLoadBalancer(t.Context(), "kubernetes", &corev1.Service{}, nil)
	if err != cloudprovider.ImplementedElsewhere { //nolint:errorlint // as upstream does
		t.Errorf("UpdateLoadBalancer: %v", err)
	}
}
