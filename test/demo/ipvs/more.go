// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

// schedulerNames are the tutorial's, and the one that needs no state.
func schedulerNames() []string {
	return []string{"wrr", "lc", "wlc", "lblc", "dh", "sh", "sed", "nq", "mh", "rr"}
}

// schedulers has the Service scheduled by each in turn.
func (s *story) schedulers(ctx context.Context) {
	s.t.Heading("Schedulers, per Service, by annotation")
	s.t.Step(ctx, "Each of the tutorial's schedulers is in the kernel of every node a moment after", func(ctx context.Context) (harness.Observation, error) {
		o := harness.Observation{Expected: strings.Join(schedulerNames(), ", ")}
		var seen []string
		for _, name := range schedulerNames() {
			if _, err := s.kubectl(ctx, "annotate", "svc", "svc-ipvs", "-n", rig.Namespace, "--overwrite", "fairlead.dev/scheduler="+name); err != nil {
				return o, err
			}
			line := ""
			for _, n := range s.w.Rig.Nodes() {
				_, err := harness.Eventually(ctx, patience, func(ctx context.Context) error {
					out, err := s.quiet(ctx, n, "ipvsadm", "-Ln", "-t", at(s.vip))
					if err != nil {
						return err
					}
					for l := range strings.Lines(out) {
						if f := strings.Fields(l); len(f) > 2 && f[1] == at(s.vip) {
							line = strings.TrimSpace(l)
							if f[2] == name {
								return nil
							}
						}
					}
					return fmt.Errorf("on %s it is %q, want %s", n.Name(), line, name)
				})
				if err != nil {
					return o, err //nolint:wrapcheck // says what it is
				}
			}
			s.t.Output(line, 0)
			seen = append(seen, name)
		}
		out, err := s.quiet(ctx, s.w.Client, "curl", "-s", "--max-time", "10", "http://"+at(s.vip)+"/")
		o.Observed = strings.Join(seen, ", ")
		o.Held = o.Observed == o.Expected && strings.Contains(out, "Hostname: webpod")
		return o, err
	})
}

// The addresses of the tutorial's ExternalIP section: two nodes', in a second network.
func nodeAddresses() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr("192.168.10.101"), netip.MustParseAddr("192.168.10.102")}
}

// nodeAddresses has a Service on addresses of two nodes, served by IPVS there.
func (s *story) nodeAddresses(ctx context.Context) {
	s.t.Heading("ExternalIP: the addresses of two nodes, served by IPVS on the node that has each")
	s.t.Step(ctx, "Two nodes get the tutorial's second address, and a grant allows Services to use it", func(ctx context.Context) (harness.Observation, error) {
		o := harness.Observation{Expected: "granted"}
		for i, a := range nodeAddresses() {
			n := s.w.Rig.Nodes()[i]
			if _, err := s.on(ctx, n.Name(), n, 0, "ip", "addr", "add", a.String()+"/24", "dev", "eth0"); err != nil {
				return o, err
			}
			if _, err := harness.Eventually(ctx, patience, func(ctx context.Context) error { return s.reported(ctx, n.Name(), a) }); err != nil {
				return o, err //nolint:wrapcheck // says what it is
			}
		}
		if _, err := s.on(ctx, "client", s.w.Client, 0, "ip", "addr", "add", "192.168.10.1/24", "dev", "eth0"); err != nil {
			return o, err
		}
		err := s.apply(ctx, "apiVersion: fairlead.dev/v1alpha1\nkind: ExternalIPPolicy\nmetadata:\n  name: default\nspec:\n  grants:\n"+
			"  - namespaces: ["+rig.Namespace+"]\n    ranges: [192.168.10.101/32, 192.168.10.102/32]\n    ports: [{port: 9000}]\n")
		o.Observed, o.Held = "granted", err == nil
		return o, err
	})
	s.t.Step(ctx, "A Service of type ClusterIP with both as externalIPs: each node has a virtual server for its own", s.externalService)
}

// reported returns nil when a node's agent has said that an address is the node's: until then
// it would be taken for a free one.
func (s *story) reported(ctx context.Context, node string, a netip.Addr) error {
	agent, err := s.w.Rig.API().NodeAgents().Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get the NodeAgent: %w", err)
	}
	for _, i := range agent.Status.Interfaces {
		if slices.Contains(i.Prefixes, a.String()+"/24") {
			return nil
		}
	}
	return fmt.Errorf("the agent of %s reports %v, not yet %s", node, agent.Status.Interfaces, a)
}

func (s *story) externalService(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: "each node serves its own address and not the other's; both answer", Held: true}
	manifest := "apiVersion: v1\nkind: Service\nmetadata:\n  name: svc-externalip\n  namespace: " + rig.Namespace +
		"\nspec:\n  type: ClusterIP\n  externalIPs: [192.168.10.101, 192.168.10.102]\n  ports: [{name: svc-webport, port: 9000, targetPort: 80}]\n---\n" + s.slice("svc-externalip")
	// The API server learns of a grant, and the controller of a node's address, a moment later.
	if _, err := harness.Eventually(ctx, patience, func(ctx context.Context) error {
		_, err := s.run(ctx, manifest, "apply", "-f", "-")
		return err
	}); err != nil {
		return o, err //nolint:wrapcheck // says what it is
	}
	s.t.Command("", "kubectl apply -f svc-externalip.yaml")
	for i, a := range nodeAddresses() {
		n := s.w.Rig.Nodes()[i]
		if _, err := harness.Eventually(ctx, patience, func(ctx context.Context) error {
			out, err := s.quiet(ctx, n, "ipvsadm", "-Ln", "-t", at(a))
			// Its pods come to the agent by a watch of their own.
			if pods := strings.Count(out, "Masq"); err == nil && pods < len(s.pods) {
				err = fmt.Errorf("%s has %d real servers", at(a), pods)
			}
			return err
		}); err != nil {
			return o, fmt.Errorf("%w; the record says %s", err, s.record(ctx, "svc-externalip"))
		}
		out, err := s.on(ctx, n.Name(), n, 0, "ipvsadm", "-Ln")
		if err != nil {
			return o, err
		}
		o.Held = o.Held && strings.Contains(out, at(a)) && !strings.Contains(out, at(nodeAddresses()[1-i]))
		// kube-proxy refuses connections to external IPs until it has heard of the pods too.
		if _, err := harness.Eventually(ctx, patience, func(ctx context.Context) error {
			_, err := s.quiet(ctx, s.w.Client, "curl", "-s", "--max-time", "10", "http://"+at(a)+"/")
			return err
		}); err != nil {
			return o, err //nolint:wrapcheck // says what it is
		}
		out, err = s.on(ctx, "client", s.w.Client, 1, "curl", "-s", "--max-time", "10", "http://"+at(a)+"/")
		if err != nil {
			return o, err
		}
		o.Held = o.Held && strings.Contains(out, "Hostname: webpod")
	}
	o.Observed = "both answer, each from its node's own virtual server"
	return o, nil
}

// record shows a Service's record to a person who wants to know why.
func (s *story) record(ctx context.Context, name string) string {
	r, err := s.w.Rig.API().LoadBalancers(rig.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("node addresses %v, conditions %v", r.Spec.NodeAddresses, r.Status.Conditions)
}
