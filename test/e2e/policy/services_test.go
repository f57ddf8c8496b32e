// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package policy

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
)

// annotatedService has one annotation.
func annotatedService(name, kind, key, value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata:\n  name: %s\n  namespace: default\n  annotations: {%q: %q}\n"+
		"spec:\n  type: %s\n  selector: {app: web}\n  ports: [{port: 80}]\n", name, key, value, kind)
}

// addresses from an address's beginning: 1, 2, 3 …
func addresses(prefix string, n int) string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("%s%d", prefix, i+1))
	}
	return strings.Join(out, ", ")
}

func TestBadAnnotationsAreRefused(t *testing.T) {
	t.Parallel()
	for i, tt := range []struct{ key, value, wants string }{
		{"addresses", "192.0.2.1", ""},
		{"addresses", " 192.0.2.1 , 2001:DB8::1 ", ""},
		{"addresses", addresses("192.0.2.", 8) + "," + addresses("2001:db8::", 8), ""},
		{"addresses", " ", ""},
		{"addresses", "192.0.2.400", `annotation fairlead.dev/addresses: "192.0.2.400" is not a list of IP addresses`},
		{"addresses", "192.0.2.1,", "is not a list of IP addresses"},
		{"addresses", "192.0.2.1 192.0.2.2", "is not a list of IP addresses"},
		{"addresses", "192.0.2.0/24", "is not a list of IP addresses"},
		{"addresses", "::ffff:192.0.2.1", "is not a list of IP addresses"},
		{"addresses", "fe80::1%eth0", "is not a list of IP addresses"},
		{"addresses", addresses("192.0.2.", 9), "at most 8 addresses per IP family"},
		{"addresses", addresses("2001:db8::", 9), "at most 8 addresses per IP family"},
		{"addresses", addresses("192.0.2.", 17), "is not a list of IP addresses"},
		{"pool", "first-pool.1", ""},
		{"pool", strings.Repeat("p", 253), ""},
		{"pool", strings.Repeat("p", 254), "is not the name of an IPAddressPool"},
		{"pool", "metallb-system/pool", "is not the name of an IPAddressPool"},
		{"pool", "Pool", "is not the name of an IPAddressPool"},
		{"pool", "pool-", "is not the name of an IPAddressPool"},
		{"pool", "pool..1", "is not the name of an IPAddressPool"},
		{"pool", "pool.-1", "is not the name of an IPAddressPool"},
		{"address-count", "1", ""},
		{"address-count", " 8 ", ""},
		{"address-count", "0", "not a number from 1 to 8"},
		{"address-count", "9", "not a number from 1 to 8"},
		{"address-count", "10", "not a number from 1 to 8"},
		{"address-count", "two", "not a number from 1 to 8"},
		{"target-type", "pod", ""},
		{"target-type", "node-port", ""},
		{"target-type", "nodeport", "neither pod nor node-port"},
		{"data-plane", "ipvs", ""},
		{"data-plane", " kube-proxy ", ""},
		{"data-plane", "iptables", "neither ipvs nor kube-proxy"},
		{"scheduler", "rr", ""},
		{"scheduler", "mh,mh-port", ""},
		{"scheduler", "sh, sh-fallback , sh-port", ""},
		{"scheduler", "mh,sh-port", "is none of rr"},
		{"scheduler", "rr,mh-port", "is none of rr"},
		{"scheduler", "maglev", "is none of rr"},
		{"reclaim-policy", "Delete", ""},
		{"reclaim-policy", "Retain", ""},
		{"reclaim-policy", "retain", "neither Delete nor Retain"},
		{"advertisements", "rack-1", ""},
		{"advertisements", "rack-1, rack.2", ""},
		{"advertisements", "rack-1,,rack-2", "not a list of names"},
		{"advertisements", "rack 1", "not a list of names"},
		{"advertisements", strings.Repeat("a", 254), "not a list of names"},
		{"sharing-key", "any text: it is ours", ""},
		{"sharing-key", strings.Repeat("k", 253), ""},
		{"sharing-key", strings.Repeat("k", 254), "longer than 253 bytes"},
		{"sharing-key", strings.Repeat("ä", 127), "longer than 253 bytes"},
		{"sharing-key", "spec.externalIPs", "is reserved"},
		{"something-new", "any", ""},
	} {
		name := fmt.Sprintf("refused-%d", i)
		t.Run(tt.key+"="+tt.value, func(t *testing.T) {
			t.Parallel()
			m := annotatedService(name, "LoadBalancer", "fairlead.dev/"+tt.key, tt.value)
			err := person().create(t.Context(), m)
			check(t, err, tt.wants)
			if err == nil {
				if err := person().delete(t.Context(), m); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// What a write leaves alone is not looked at, and only load balancers are.
func TestAnnotationsAreLookedAtWhenWritten(t *testing.T) {
	t.Parallel()
	m := annotatedService("old", "ClusterIP", "fairlead.dev/address-count", "many")
	given(t, m)
	const good, bad = `{metadata: {annotations: {fairlead.dev/pool: a}}}`, `{metadata: {annotations: {fairlead.dev/pool: A}}}`
	for _, tt := range []struct{ name, patch, wants string }{
		{"another bad one on a ClusterIP", bad, ""},
		{"a good one instead", good, ""},
		{"it becomes a load balancer", `{spec: {type: LoadBalancer}}`, ""},
		{"its label", `{metadata: {labels: {a: b}}}`, ""},
		{"a finalizer", `{metadata: {finalizers: [fairlead.dev/load-balancer]}}`, ""},
		{"no finalizer", `{metadata: {finalizers: null}}`, ""},
		{"its ports", `{spec: {ports: [{port: 81}]}}`, ""},
		{"somebody else's annotation", `{metadata: {annotations: {example.com/a: b}}}`, ""},
		{"a bad one", bad, "annotation fairlead.dev/pool is not"},
		{"the bad one changes", `{metadata: {annotations: {fairlead.dev/address-count: more}}}`, "annotation fairlead.dev/address-count is not"},
		{"the bad one goes", `{metadata: {annotations: {fairlead.dev/address-count: null}}}`, ""},
		{"an address", `{metadata: {annotations: {fairlead.dev/addresses: "192.0.2.1,2001:db8::1"}}}`, ""},
		{"as many as named", `{metadata: {annotations: {fairlead.dev/address-count: "1"}}}`, ""},
		{"more named than counted", `{metadata: {annotations: {fairlead.dev/addresses: "192.0.2.1,192.0.2.2"}}}`, "asks for fewer addresses than"},
		{"both at once", `{metadata: {annotations: {fairlead.dev/addresses: "192.0.2.1,192.0.2.2", fairlead.dev/address-count: "2"}}}`, ""},
		{"fewer counted than named", `{metadata: {annotations: {fairlead.dev/address-count: "1"}}}`, "asks for fewer addresses than"},
		{"all go", `{metadata: {annotations: null}}`, ""},
		{"the first is bad", bad, "annotation fairlead.dev/pool is not"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			check(t, person().patch(t.Context(), m, tt.patch), tt.wants)
		})
	}
}

// warnings collects what kubectl would print.
type warnings struct {
	mu   sync.Mutex
	text []string
}

// HandleWarningHeader implements rest.WarningHandler.
func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, text)
}

func TestDoubtfulAnnotationsAreWarnedOf(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("k", 254)
	for i, tt := range []struct{ kind, key, value, wants string }{
		{"LoadBalancer", "fairlead.dev/adresses", "192.0.2.1", "Fairlead knows no annotation fairlead.dev/adresses"},
		{"ClusterIP", "fairlead.dev/adresses", "192.0.2.1", "Fairlead knows no annotation fairlead.dev/adresses"},
		{"LoadBalancer", "fairlead.dev/addresses", "192.0.2.1", ""},
		{"LoadBalancer", "fairlead.dev/pool", "a", ""},
		{"LoadBalancer", "fairlead.dev/sharing-key", "a", ""},
		{"LoadBalancer", "fairlead.dev/address-count", "1", ""},
		{"LoadBalancer", "fairlead.dev/reclaim-policy", "Retain", ""},
		{"LoadBalancer", "fairlead.dev/advertisements", "a", ""},
		{"LoadBalancer", "fairlead.dev/target-type", "pod", ""},
		{"LoadBalancer", "fairlead.dev/data-plane", "ipvs", ""},
		{"LoadBalancer", "fairlead.dev/scheduler", "mh", ""},
		{"LoadBalancer", "fairlead.dev/weight", "3", "Fairlead knows no annotation fairlead.dev/weight of Services"},
		{"LoadBalancer", "example.com/adresses", "192.0.2.1", ""},
		{"LoadBalancer", "metallb.io/ip-allocated-from-pool", "a", ""},
		{"LoadBalancer", "metallb.io/loadBalancerIPs", "192.0.2.1,2001:db8::1", ""},
		{"LoadBalancer", "metallb.io/loadBalancerIPs", "192.0.2.400", "cannot read annotation metallb.io/loadBalancerIPs"},
		{"LoadBalancer", "metallb.universe.tf/loadBalancerIPs", "web", "cannot read annotation metallb.universe.tf/loadBalancerIPs"},
		{"ClusterIP", "metallb.io/loadBalancerIPs", "192.0.2.400", ""},
		{"LoadBalancer", "metallb.io/address-pool", "a", ""},
		{"LoadBalancer", "metallb.io/address-pool", "a/b", "cannot read annotation metallb.io/address-pool"},
		{"LoadBalancer", "metallb.universe.tf/address-pool", "A", "cannot read annotation metallb.universe.tf/address-pool"},
		{"LoadBalancer", "metallb.io/allow-shared-ip", "a", ""},
		{"LoadBalancer", "metallb.io/allow-shared-ip", "spec.externalIPs", "does not accept annotation metallb.io/allow-shared-ip"},
		{"LoadBalancer", "metallb.universe.tf/allow-shared-ip", long, "does not accept annotation metallb.universe.tf/allow-shared-ip"},
	} {
		name := fmt.Sprintf("warned-%d", i)
		t.Run(tt.kind+" "+tt.key+"="+tt.value, func(t *testing.T) {
			t.Parallel()
			w := &warnings{}
			cfg := cluster.config()
			cfg.WarningHandler = w
			c, err := dynamic.NewForConfig(cfg)
			if err != nil {
				t.Fatal(err)
			}
			m := annotatedService(name, tt.kind, tt.key, tt.value)
			o, err := object(m)
			if err != nil {
				t.Fatal(err)
			}
			services := c.Resource(resource(o)).Namespace("default")
			if _, err := services.Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
				t.Fatalf("a warning must not refuse: %v", err)
			}
			got := strings.Join(w.text, "\n")
			if (tt.wants == "") != (got == "") || !strings.Contains(got, tt.wants) {
				t.Errorf("warnings %q, want %q", got, tt.wants)
			}
			// An update that leaves the annotation alone warns of nothing.
			w.text = nil
			o.SetLabels(map[string]string{"a": "b"})
			if _, err := services.Update(t.Context(), o, metav1.UpdateOptions{}); err != nil {
				t.Error(err)
			}
			if len(w.text) != 0 {
				t.Errorf("an update of a label warns: %q", w.text)
			}
			if err := person().delete(t.Context(), m); err != nil {
				t.Error(err)
			}
		})
	}
}
