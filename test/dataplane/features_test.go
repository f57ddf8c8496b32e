// SPDX-License-Identifier: Apache-2.0

//go:build ipvs

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

const (
	// affinity of clients, in seconds.
	affinity = 77
	// external is a free address of the nodes' network, in no pool.
	external = "10.30.200.1"
	// nodePortOfOurs is where a Service is served on a node's own address.
	nodePortOfOurs = 8000
)

// testFeatures shows what a Service may ask for besides what the matrix combines.
func testFeatures(t *testing.T, w *World, mode Mode) {
	restricted := &Service{Name: "sources", Pods: []*Pod{w.A, w.B}, Change: func(s *corev1.Service) {
		s.Spec.LoadBalancerSourceRanges = []string{netip.PrefixFrom(w.Client.IPv4(), 32).String()}
	}}
	sticky := &Service{Name: "affinity", Pods: []*Pod{w.A, w.B}, Change: func(s *corev1.Service) {
		seconds := int32(affinity)
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}}
	streams := &Service{Name: "sctp", Pods: []*Pod{w.A, w.B}, Change: func(s *corev1.Service) {
		s.Spec.Ports = []corev1.ServicePort{{Name: "sctp", Protocol: corev1.ProtocolSCTP, Port: servicePort, TargetPort: intstr.FromInt32(podPort)}}
	}}
	services := []*Service{restricted, sticky, streams}
	if full() {
		streams6 := *streams
		streams6.Name, streams6.IPv6 = "sctp-6", true
		services = append(services, &streams6)
	}
	for _, s := range services {
		if err := w.Create(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	outer, given := w.createExternal(t, mode)
	addresses, err := w.Served(t.Context(), services...)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range services {
		if _, err := w.Owner(t.Context(), addresses[s]); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("source-ranges", func(t *testing.T) { testSourceRanges(t, w, addresses[restricted]) })
	t.Run("affinity", func(t *testing.T) { testAffinity(t, w, addresses[sticky]) })
	t.Run("ICMP", func(t *testing.T) { testICMP(t, w, addresses[sticky]) })
	for _, s := range services[2:] {
		t.Run(s.Name, func(t *testing.T) { testSCTP(t, w, s, addresses[s]) })
	}
	t.Run("external-IPs", func(t *testing.T) { testExternalIPs(t, w, mode, given) })
	if err := w.Remove(t.Context(), append(services, outer)...); err != nil {
		t.Error(err)
	}
	w.say("what else Services may ask for is done")
}

// Whom the list leaves out gets no answer, wherever it asks; the node itself is not a client.
func testSourceRanges(t *testing.T, w *World, to netip.Addr) {
	at := netip.AddrPortFrom(to, servicePort)
	for _, proto := range []Protocol{TCP, UDP} {
		if a, err := w.answered(t.Context(), w.Client, proto, at); err != nil {
			t.Errorf("%s: from the list: %+v, %v", proto, a, err)
		}
	}
	for name, from := range map[string]Place{"a host": w.Via[0], "a pod": w.Near} {
		if err := silent(t.Context(), from, TCP, at); err != nil {
			t.Errorf("%s that is not on the list: %v", name, err)
		}
	}
}

// A client that keeps its pod: round robin would go to the other one each second time.
func testAffinity(t *testing.T, w *World, to netip.Addr) {
	at := netip.AddrPortFrom(to, servicePort)
	for _, proto := range []Protocol{TCP, UDP} {
		for name, from := range map[string]Place{"client": w.Client, "pod": w.Near, "another node's client": w.Via[2]} {
			first, err := w.answered(t.Context(), from, proto, at)
			if err != nil {
				t.Errorf("%s: %s: %v", proto, name, err)
				continue
			}
			for range 3 {
				a, err := w.answered(t.Context(), from, proto, at)
				if err != nil || a.Pod != first.Pod {
					t.Errorf("%s: %s: pod %s answers after %s: %v", proto, name, a.Pod, first.Pod, err)
				}
			}
		}
	}
	want := fmt.Sprintf("-A -t %s -s rr -p %d", at, affinity)
	if k := readKernel(t, w.Rig.Nodes()[0]); !strings.Contains(k.Ours, want) {
		t.Errorf("no %q in\n%s", want, k.Ours)
	}
}

// An announced address answers echo requests by its node, from everywhere.
func testICMP(t *testing.T, w *World, to netip.Addr) {
	for name, from := range map[string]Place{"client": w.Client, "pod": w.Near, "node": w.Rig.Nodes()[2]} {
		_, err := harness.Eventually(t.Context(), silenceTimeout, func(ctx context.Context) error {
			return from.Do(func() error {
				out, err := exec.CommandContext(ctx, "ping", "-c1", "-W3", to.String()).CombinedOutput()
				if err != nil {
					return fmt.Errorf("%w: %s", err, out)
				}
				return nil
			})
		})
		if err != nil {
			t.Errorf("ping from %s: %v", name, err)
		}
	}
}

func testSCTP(t *testing.T, w *World, s *Service, to netip.Addr) {
	if err := HasSCTP(); err != nil {
		w.say("NOT TESTED: packets of SCTP: %v", err)
		return
	}
	if err := errors.Join(w.A.ServeSCTP(), w.B.ServeSCTP()); err != nil {
		t.Fatal(err)
	}
	owner, err := w.Owner(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	r := &Row{Mode: w.Proxies[0].mode, Service: s, Proto: SCTP, To: to, Owner: owner}
	for _, c := range r.Cases(w) {
		if err := r.Check(t.Context(), &c); errors.Is(err, ErrSilence) {
			w.say("%s: %s: again after %v", r.Name(), c.Name, err)
			_, err = harness.Eventually(t.Context(), silenceTimeout, func(ctx context.Context) error { return r.Check(ctx, &c) })
			if err != nil {
				t.Errorf("%s: %v", c.Name, err)
			}
		} else if err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
}

// createExternal makes a Service with external IPs: a free address, and a node's own. Not so
// in ipvs mode, where kube-proxy binds them to a link of every node: the others would take
// the node for themselves.
func (w *World) createExternal(t *testing.T, mode Mode) (*Service, []netip.Addr) {
	t.Helper()
	node := w.Rig.Nodes()[0].IPv4()
	addresses := []netip.Addr{netip.MustParseAddr(external)}
	if mode != IPVS {
		addresses = append(addresses, node)
	}
	policies := w.Rig.API().ExternalIPPolicies()
	p, err := policies.Get(t.Context(), v1alpha1.ExternalIPPolicyName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.Spec.Grants = []v1alpha1.ExternalIPGrant{{Namespaces: []string{rig.Namespace}, Ranges: []string{external + "/32", node.String() + "/32"}}}
	if _, err := policies.Update(t.Context(), p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	// What lies in no pool is announced by advertisements of every pool.
	if err := w.Rig.Plane().Create(t.Context(), everything); err != nil {
		t.Fatal(err)
	}
	s := &Service{Name: "external", Pods: []*Pod{w.A, w.B}, Change: func(s *corev1.Service) {
		s.Labels = map[string]string{"announce": "external"}
		s.Spec.Type = corev1.ServiceTypeClusterIP
		for _, a := range addresses {
			s.Spec.ExternalIPs = append(s.Spec.ExternalIPs, a.String())
		}
		for i := range s.Spec.Ports {
			s.Spec.Ports[i].Port = nodePortOfOurs
		}
	}}
	// The policy may be a moment old where it is asked for.
	_, err = harness.Eventually(t.Context(), serveTimeout, func(ctx context.Context) error { return w.Create(ctx, s) })
	if err != nil {
		t.Fatal(err)
	}
	return s, addresses
}

const everything = `apiVersion: fairlead.dev/v1alpha1
kind: L2Advertisement
metadata: {name: everything}
spec: {serviceSelectors: [{matchLabels: {announce: external}}]}
`

// testExternalIPs asks at all of them by everybody. In ipvs mode, kube-proxy has them.
func testExternalIPs(t *testing.T, w *World, mode Mode, addresses []netip.Addr) {
	node := w.Rig.Nodes()[0]
	if _, err := w.Owner(t.Context(), addresses[0]); err != nil {
		t.Fatal(err)
	}
	for _, to := range addresses {
		at := netip.AddrPortFrom(to, nodePortOfOurs)
		for _, proto := range []Protocol{TCP, UDP} {
			for name, from := range map[string]Place{"client": w.Client, "pod": w.Near, "pod elsewhere": w.Far, "node": w.Rig.Nodes()[2]} {
				seen := map[string]bool{}
				for range tries {
					a, err := w.answered(t.Context(), from, proto, at)
					if err != nil {
						t.Errorf("%s to %s from %s: %v", proto, at, name, err)
						break
					}
					if seen[a.Pod] = true; len(seen) == 2 {
						break
					}
				}
				if len(seen) != 2 {
					t.Errorf("%s to %s from %s: only %v answer", proto, at, name, seen)
				}
			}
		}
	}
	rules, err := OnNode(t.Context(), node, "nft", "list", "set", "inet", "fairlead", "served4")
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := OnNode(t.Context(), node, "nft", "list", "set", "inet", "fairlead", "foreign4")
	if err != nil {
		t.Fatal(err)
	}
	if mode == IPVS {
		return
	}
	// By IPVS indeed, and of the node's own address that port only.
	at := fmt.Sprintf("%s . tcp . %d", node.IPv4(), nodePortOfOurs)
	if !strings.Contains(rules, at) || !strings.Contains(foreign, at) || !strings.Contains(rules, external) {
		t.Errorf("it is not served by IPVS:\n%s\n%s", rules, foreign)
	}
}

// answered asks again while nobody answers: nothing tells when an external IP is served, and
// a packet may wait for seconds on an emulated processor.
func (w *World) answered(ctx context.Context, from Place, proto Protocol, to netip.AddrPort) (a Answer, err error) {
	_, err = harness.Eventually(ctx, silenceTimeout, func(ctx context.Context) error {
		if a, err = Ask(ctx, from, proto, to); err != nil {
			w.say("%s: again after %v", proto, err)
		}
		return err
	})
	return a, err //nolint:wrapcheck // says what it is
}
