// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

const (
	// vipLink has the addresses that IPVS serves, as kube-ipvs0 has kube-proxy's.
	vipLink = "dummy-fairlead"
	// port of the Services, as in the tutorial.
	port     = 9000
	requests = 1000
)

// slice is the EndpointSlice of the three web servers, which a controller of Kubernetes
// would write: here no kubelet runs.
func (s *story) slice(service string) string {
	var b strings.Builder
	b.WriteString("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: " + service + "-pods\n  namespace: " + rig.Namespace +
		"\n  labels: {kubernetes.io/service-name: " + service + "}\naddressType: IPv4\nports: [{name: svc-webport, port: 80}]\nendpoints:\n")
	for _, p := range s.pods {
		fmt.Fprintf(&b, "- {addresses: [%s], nodeName: %s, conditions: {ready: true}}\n", p.IPv4, p.Node.Name())
	}
	return b.String()
}

// service makes the Service and waits until all nodes forward it.
func (s *story) service(ctx context.Context) bool {
	s.t.Heading("A Service of type LoadBalancer, forwarded by IPVS on every node")
	return s.t.Step(ctx, "Three pods behind port 9000; the status says ipMode Proxy when every node has programmed it", func(ctx context.Context) (harness.Observation, error) {
		o := harness.Observation{Expected: "an address with ipMode Proxy"}
		err := s.apply(ctx, "apiVersion: v1\nkind: Service\nmetadata:\n  name: svc-ipvs\n  namespace: "+rig.Namespace+
			"\nspec:\n  type: LoadBalancer\n  ipFamilies: [IPv4]\n  ports: [{name: svc-webport, port: 9000, targetPort: 80}]\n---\n"+s.slice("svc-ipvs"))
		if err != nil {
			return o, err
		}
		took, err := harness.Eventually(ctx, patience, s.forwarded)
		if err != nil {
			return o, err //nolint:wrapcheck // says what it is
		}
		if _, err := s.kubectl(ctx, "get", "svc,loadbalancers", "-n", rig.Namespace); err != nil {
			return o, err
		}
		if s.owner, err = s.w.Owner(ctx, s.vip); err != nil {
			return o, err //nolint:wrapcheck // says what it is
		}
		o.Observed, o.Held = fmt.Sprintf("%s with ipMode Proxy after %.1f s, announced by %s", s.vip, took.Seconds(), s.owner.Name()), true
		return o, nil
	})
}

// forwarded returns nil once the status says that all nodes forward, and notes the address.
func (s *story) forwarded(ctx context.Context) error {
	svc, err := s.w.Rig.Kube().CoreV1().Services(rig.Namespace).Get(ctx, "svc-ipvs", metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get the Service: %w", err)
	}
	in := svc.Status.LoadBalancer.Ingress
	if len(in) != 1 || in[0].IPMode == nil || *in[0].IPMode != corev1.LoadBalancerIPModeProxy {
		return fmt.Errorf("its status is %+v", in)
	}
	if s.vip, err = netip.ParseAddr(in[0].IP); err != nil {
		return fmt.Errorf("its address: %w", err)
	}
	_, err = s.w.Owner(ctx, s.vip)
	return err //nolint:wrapcheck // says what it is
}

// at is the Service as ipvsadm takes it.
func at(a netip.Addr) string { return netip.AddrPortFrom(a, port).String() }

// kernelState looks at what the tutorial looks at on each node.
func (s *story) kernelState(ctx context.Context) {
	s.t.Heading("What a node's kernel has: the link, the virtual server, strict ARP")
	s.t.Step(ctx, "The address is on "+vipLink+", where kube-proxy would have kube-ipvs0", func(ctx context.Context) (harness.Observation, error) {
		o := harness.Observation{Expected: s.vip.String() + "/32 on all three nodes", Held: true}
		for _, n := range s.w.Rig.Nodes() {
			out, err := s.on(ctx, n.Name(), n, 0, "ip", "-br", "addr", "show", vipLink)
			if err != nil {
				return o, err
			}
			o.Held = o.Held && strings.Contains(out, s.vip.String()+"/32")
		}
		o.Observed = "it is there"
		return o, nil
	})
	s.t.Step(ctx, "ipvsadm -Ln shows the same on every node: round robin to the three pods", func(ctx context.Context) (harness.Observation, error) {
		o := harness.Observation{Expected: "rr to three pods, Masq, weight 1", Held: true}
		for _, n := range s.w.Rig.Nodes() {
			out, err := s.on(ctx, n.Name(), n, 0, "ipvsadm", "-Ln", "-t", at(s.vip))
			if err != nil {
				return o, err
			}
			o.Held = o.Held && strings.Contains(out, at(s.vip)+" rr")
			for _, p := range s.pods {
				o.Held = o.Held && strings.Contains(out, p.IPv4.String()+":80")
			}
		}
		o.Observed = "so it is on all three"
		return o, nil
	})
	s.t.Step(ctx, "Strict ARP: only the announcing node answers for the address, though all have it", func(ctx context.Context) (harness.Observation, error) {
		o := harness.Observation{Expected: "arp_ignore 1, arp_announce 2 on every node; one MAC, " + s.owner.MAC().String()}
		settings := map[string]int{}
		for _, n := range s.w.Rig.Nodes() {
			out, err := s.on(ctx, n.Name(), n, 0, "sysctl", "-n", "net.ipv4.conf.eth0.arp_ignore", "net.ipv4.conf.eth0.arp_announce")
			if err != nil {
				return o, err
			}
			settings[strings.Join(strings.Fields(out), " ")]++
		}
		out, err := s.on(ctx, "client", s.w.Client, 0, "arping", "-b", "-c", "2", "-w", "4", "-I", "eth0", s.vip.String())
		if err != nil {
			return o, err
		}
		macs := map[string]bool{}
		for line := range strings.Lines(out) {
			if _, after, ok := strings.Cut(line, "["); ok {
				mac, _, _ := strings.Cut(after, "]")
				macs[strings.ToLower(mac)] = true
			}
		}
		o.Observed = fmt.Sprintf("arp_ignore and arp_announce %v, MACs %v", settings, macs)
		o.Held = settings["1 2"] == len(s.w.Rig.Nodes()) && len(macs) == 1 && macs[s.owner.MAC().String()]
		return o, nil
	})
}

// traffic sends the tutorial's thousand requests and looks at the counters.
func (s *story) traffic(ctx context.Context) {
	s.t.Heading("Traffic")
	s.t.Step(ctx, "A client outside the cluster asks", func(ctx context.Context) (harness.Observation, error) {
		o := harness.Observation{Expected: "a pod answers"}
		out, err := s.on(ctx, "client", s.w.Client, 0, "curl", "-s", "--max-time", "10", "http://"+at(s.vip)+"/")
		o.Observed = harness.Field(out, "Hostname") + " answers"
		o.Held = strings.HasPrefix(o.Observed, "webpod")
		return o, err
	})
	s.t.Step(ctx, "1,000 requests: round robin counts, it does not roll dice", func(ctx context.Context) (harness.Observation, error) {
		o := harness.Observation{Expected: "334, 333 and 333 by three pods"}
		out, err := s.quiet(ctx, s.w.Client, filepath.Join(s.root, "bin", ProbeProgram),
			"-json", "-target", "http://"+at(s.vip)+"/", "-rate", "50", "-for", "20s", "-timeout", "10s")
		s.t.Command("client", "fairlead-probe -target http://%s/ -rate 50 -for 20s", at(s.vip))
		if err != nil {
			return o, err
		}
		var r harness.Report
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			return o, fmt.Errorf("read the prober's report: %w", err)
		}
		s.t.Output(r.String(), 0)
		var counts []int
		for name, n := range r.Hostnames {
			s.t.Output(fmt.Sprintf("%4d Hostname: %s", n, name), 0)
			counts = append(counts, n)
		}
		slices.Sort(counts)
		o.Observed = fmt.Sprintf("%d requests, %d failed: %v", r.Sent, r.Failed, counts)
		o.Held = r.Sent == requests && r.Failed == 0 && slices.Equal(counts, []int{333, 333, 334})
		return o, nil
	})
	s.t.Step(ctx, "The kernel has counted them", func(ctx context.Context) (harness.Observation, error) {
		o := harness.Observation{Expected: strconv.Itoa(requests+1) + " connections to the virtual server"}
		// The kernel's estimator adds up every two seconds.
		_, err := harness.Eventually(ctx, patience, func(ctx context.Context) error {
			out, err := s.quiet(ctx, s.owner, "ipvsadm", "-Ln", "--exact", "-t", at(s.vip), "--stats")
			if err == nil && !strings.Contains(out, fmt.Sprintf(" %d ", requests+1)) {
				err = fmt.Errorf("ipvsadm says\n%s", out)
			}
			return err
		})
		if err != nil {
			return o, err //nolint:wrapcheck // says what it is
		}
		for _, what := range []string{"--stats", "--rate"} {
			if _, err := s.on(ctx, s.owner.Name(), s.owner, 0, "ipvsadm", "-Ln", "-t", at(s.vip), what); err != nil {
				return o, err
			}
		}
		o.Observed, o.Held = "so ipvsadm says", true
		return o, nil
	})
}
