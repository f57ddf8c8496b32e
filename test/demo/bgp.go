// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/routers"
)

const (
	// bgpRouter is the tutorial's router, at its address in the nodes' second network.
	bgpRouter        = "router"
	bgpRouterAddress = "192.168.10.254"
	// bgpVIP is the first address of the tutorial's pool that avoid-buggy-ips leaves.
	bgpVIP = "172.20.1.1"
	// bgpCalm bounds how long routers and agents may take to agree on a slow machine.
	bgpCalm = 30 * time.Second
)

// The tutorial's BGP section: the ConfigMap of MetalLB before 0.13, and the router.
const (
	bgpConfigMap = `apiVersion: v1
kind: ConfigMap
metadata:
  namespace: metallb-system
  name: config
data:
  config: |
    peers:
    - peer-address: 192.168.10.254
      peer-asn: 64513
      my-asn: 64512
    address-pools:
    - name: default
      protocol: bgp
      avoid-buggy-ips: true
      addresses:
      - 172.20.1.0/24
`
	bgpRouterConfig = `router bgp 64513
 bgp router-id 192.168.10.254
 no bgp ebgp-requires-policy
 maximum-paths 4
 network 10.1.1.0/24
 neighbor 192.168.10.10 remote-as 64512
 neighbor 192.168.10.101 remote-as 64512
 neighbor 192.168.10.102 remote-as 64512
 neighbor 192.168.10.103 remote-as 64512
`
	bgpService = `apiVersion: v1
kind: Service
metadata:
  name: svc-bgp
  annotations:
    metallb.io/address-pool: default
spec:
  ports:
    - name: web
      port: 80
      targetPort: 80
  selector:
    app: webpod
  type: LoadBalancer
`
)

// bgp is the tutorial's section on BGP, which its own cluster cannot show.
func (d *demo) bgp(ctx context.Context) {
	d.t.Heading("BGP: the tutorial's ConfigMap and its router, an FRR with maximum-paths 4")
	if !d.t.Step(ctx, "A router on the nodes' network speaks BGP", d.router) {
		return
	}
	d.t.Step(ctx, "The ConfigMap of MetalLB before 0.13 becomes Fairlead's objects", d.migrated)
	if !d.t.Step(ctx, "Every node has a session with the router", d.peered) {
		return
	}
	if !d.t.Step(ctx, "A Service of that pool: each node tells the router, which has four ways to the address", d.routed) {
		return
	}
	d.t.Step(ctx, "The packet: what a node told the router", d.captured)
	d.t.Step(ctx, "Requests by way of the router are shared among the nodes", d.throughRouter)
	d.bgpChanges(ctx)
	d.t.Step(ctx, "This chapter's objects go", d.unrouted)
}

// bgpPrefix is the route that is told of the Service.
func bgpPrefix() netip.Prefix { return netip.PrefixFrom(netip.MustParseAddr(bgpVIP), 32) }

// onRouter shows and runs one command of the router's shell.
func (d *demo) onRouter(ctx context.Context, command string) (string, error) {
	d.t.Command(bgpRouter, "vtysh -c '%s'", command)
	res, err := d.lab.Exec(ctx, bgpRouter, routers.RemoteVtysh("-c", command)...)
	d.t.Output(res.Stdout, 30)
	return res.Stdout, err
}

// configureRouter types lines of configuration into the router.
func (d *demo) configureRouter(ctx context.Context, text string) error {
	d.t.Command(bgpRouter, "cat <<EOF | vtysh -f /dev/stdin\n%sEOF", text)
	file := d.scratch("router.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write the router's configuration: %w", err)
	}
	res, err := d.lab.Exec(ctx, bgpRouter, routers.RemoteVtysh("-f", file)...)
	d.t.Output(res.Stdout, 0)
	return err
}

func (d *demo) router(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: "FRR is configured at " + bgpRouterAddress}
	d.t.Command("", "fairlead-lab add --state-dir %s router %s", d.lab.StateDir(), bgpRouter)
	res, err := d.lab.AddRouter(ctx, bgpRouter)
	d.t.Output(res.Stdout, 0)
	if err != nil {
		return o, err
	}
	d.t.Command(bgpRouter, "%s", routers.RemoteScript)
	if _, err := d.lab.Exec(ctx, bgpRouter, routers.RemoteStart()...); err != nil {
		return o, err
	}
	d.t.Note("The tutorial's configuration, and a line that FRR wants today to accept routes without a filter:")
	if err := d.configureRouter(ctx, bgpRouterConfig); err != nil {
		return o, err
	}
	// A router in Idle refuses connections (RFC 4271 §8.2.2), and agents try again after 10 s only.
	if _, err := d.sessions(ctx, func(s routers.Session) error {
		if s.State == "Idle" {
			return fmt.Errorf("the router has not begun with %s", s.Neighbor)
		}
		return nil
	}); err != nil {
		return o, err
	}
	out, err := d.onRouter(ctx, "show bgp summary")
	o.Observed = fmt.Sprintf("%s; it knows %d neighbours", strings.TrimSpace(res.Stdout), strings.Count(out, "\n192.168.10."))
	o.Held = strings.Contains(res.Stdout, bgpRouterAddress) && strings.Contains(out, "192.168.10.103")
	return o, err
}

func (d *demo) migrated(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: "a pool, a BGPPeer and a BGPAdvertisement; nothing of it is lost"}
	d.t.Command("", "cat <<EOF | kubectl fairlead migrate metallb -f - | tee bgp.yaml\n%sEOF", bgpConfigMap)
	res, err := d.lab.Plugin(ctx, bgpConfigMap, "migrate", "metallb", "-f", "-")
	d.t.Output(res.Stdout+res.Stderr, 0)
	if err != nil {
		return o, err
	}
	d.t.Command("", "kubectl apply -f bgp.yaml")
	applied, err := d.lab.Apply(ctx, res.Stdout)
	d.t.Output(applied.Stdout+applied.Stderr, 0)
	if err != nil {
		return o, err
	}
	o.Observed, o.Held = strings.Join(strings.Fields(applied.Stdout), " "), true
	for _, want := range []string{"ipaddresspool.fairlead.dev/default", "bgppeer.fairlead.dev/", "bgpadvertisement.fairlead.dev/"} {
		o.Held = o.Held && strings.Contains(applied.Stdout, want)
	}
	return o, nil
}

// sessions waits until want holds of all of the router's sessions.
func (d *demo) sessions(ctx context.Context, want func(routers.Session) error) (time.Duration, error) {
	return harness.Eventually(ctx, 2*bgpCalm, func(ctx context.Context) error {
		res, err := d.lab.Exec(ctx, bgpRouter, routers.RemoteVtysh("-c", "show bgp neighbors json")...)
		if err != nil {
			return err
		}
		all, err := routers.FRRSessions(res.Stdout)
		if err == nil && len(all) == 0 {
			err = errors.New("the router has no neighbour")
		}
		for i := range all {
			err = errors.Join(err, want(all[i]))
		}
		return err
	})
}

func established(s routers.Session) error {
	if !s.Established {
		return fmt.Errorf("the router's session with %s is %s", s.Neighbor, s.State)
	}
	return nil
}

func closed(s routers.Session) error {
	if s.Established {
		return fmt.Errorf("the router's session with %s is still up", s.Neighbor)
	}
	return nil
}

// peers waits until the agents say these words of all four sessions, and shows what they say.
func (d *demo) peers(ctx context.Context, words ...string) error {
	d.t.Command("", "kubectl fairlead bgp peers")
	said := ""
	_, err := harness.Eventually(ctx, bgpCalm, func(ctx context.Context) error {
		res, err := d.lab.Plugin(ctx, "", "bgp", "peers")
		said = res.Stdout + res.Stderr
		n := 0
		for line := range strings.Lines(said) {
			if !slices.ContainsFunc(words, func(w string) bool { return !slices.Contains(strings.Fields(line), w) }) {
				n++
			}
		}
		if err == nil && n != len(harness.FairleadNodes()) {
			err = fmt.Errorf("%d sessions %s", n, strings.Join(words, ", "))
		}
		return err
	})
	d.t.Output(said, 0)
	return err
}

func (d *demo) peered(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: "4 sessions Established, by the router and by Fairlead"}
	d.t.Note("The tutorial's router knows the control plane, too; here it was kept from announcing:")
	if _, err := d.typed(ctx, "label", "node", harness.FairleadNodes()[0], harness.ExcludeLabel+"-"); err != nil {
		return o, err
	}
	took, err := d.sessions(ctx, established)
	if err != nil {
		return o, err
	}
	if _, err := d.onRouter(ctx, "show bgp summary"); err != nil {
		return o, err
	}
	err = d.peers(ctx, "Established")
	o.Observed, o.Held = fmt.Sprintf("4 Established, %.1f s after the command", took.Seconds()), err == nil
	return o, err
}

// paths waits until want holds of the router's paths to the Service.
func (d *demo) paths(ctx context.Context, want func([]routers.Path) error) (time.Duration, error) {
	return harness.Eventually(ctx, bgpCalm, func(ctx context.Context) error {
		res, err := d.lab.Exec(ctx, bgpRouter, routers.RemoteVtysh("-c", routers.FRRShow(bgpPrefix())+" json")...)
		if err != nil {
			return err
		}
		paths, err := routers.FRRPaths(res.Stdout)
		if err != nil {
			return err
		}
		return want(paths)
	})
}

// hops waits until want holds of the next hops for the Service that the router's kernel uses.
func (d *demo) hops(ctx context.Context, want func([]string) bool) (hops []string, took time.Duration, err error) {
	took, err = harness.Eventually(ctx, 2*bgpCalm, func(ctx context.Context) error {
		res, err := d.lab.Exec(ctx, bgpRouter, "ip", "-4", "route", "show", bgpPrefix().String())
		if err != nil {
			return err
		}
		hops = nil
		words := strings.Fields(res.Stdout)
		for i := range words {
			if words[i] == "via" && i+1 < len(words) {
				hops = append(hops, words[i+1])
			}
		}
		slices.Sort(hops)
		if !want(hops) {
			return fmt.Errorf("the router sends what is for %s to %v", bgpVIP, hops)
		}
		return nil
	})
	return hops, took, err
}

// many wants so many next hops.
func many(n int) func([]string) bool { return func(hops []string) bool { return len(hops) == n } }

// capture is where the router's tcpdump writes.
func (d *demo) capture() string { return d.scratch("bgp-capture.txt") }

func (d *demo) routed(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: bgpVIP + "/32 with 4 next hops, the nodes' own addresses"}
	d.t.Command(bgpRouter, "tcpdump -v -n -i eth0 tcp port 179 >capture.txt &")
	// The capture ends by itself, with the machine at the latest.
	_, err := d.lab.Exec(ctx, bgpRouter, "sh", "-c", "timeout 60 tcpdump -Z root -l --immediate-mode -v -n -s 0 -i eth0 tcp port 179 >"+d.capture()+" 2>&1 </dev/null & i=0; "+
		"while ! grep -q 'listening on' "+d.capture()+" && [ $i -lt 200 ]; do i=$((i+1)); sleep 0.05; done")
	if err != nil {
		return o, err
	}
	if _, err := d.applied(ctx, bgpService); err != nil {
		return o, err
	}
	hops, took, err := d.hops(ctx, many(4))
	if err != nil {
		return o, err
	}
	if _, err := d.typed(ctx, "get", "svc", "svc-bgp"); err != nil {
		return o, err
	}
	if _, err := d.onRouter(ctx, "show ip bgp"); err != nil {
		return o, err
	}
	if _, err := d.onRouter(ctx, "show ip route "+bgpPrefix().String()); err != nil {
		return o, err
	}
	o.Observed = fmt.Sprintf("%s, %.1f s after the Service", strings.Join(hops, ", "), took.Seconds())
	o.Held = slices.Equal(hops, []string{"192.168.10.10", "192.168.10.101", "192.168.10.102", "192.168.10.103"})
	return o, nil
}

// captured shows the tutorial's picture of the packet, in words.
func (d *demo) captured(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: "an UPDATE with " + bgpVIP + "/32, AS path 64512, and the node as next hop"}
	d.t.Command(bgpRouter, "grep -A 12 'Update Message' capture.txt")
	update := ""
	_, err := harness.Eventually(ctx, 10*time.Second, func(ctx context.Context) error {
		res, err := d.lab.Exec(ctx, bgpRouter, "cat", d.capture())
		if err != nil {
			return err
		}
		update, err = routers.FindUpdate(res.Stdout, bgpPrefix().String())
		return err
	})
	if err != nil {
		return o, err
	}
	d.t.Output(update, 0)
	d.t.Note("The same, asked of Fairlead:")
	d.t.Command("", "kubectl fairlead bgp routes")
	res, err := d.lab.Plugin(ctx, "", "bgp", "routes")
	d.t.Output(res.Stdout+res.Stderr, 0)
	told := strings.Count(res.Stdout, bgpPrefix().String())
	o.Observed = fmt.Sprintf("such an UPDATE; %d nodes say that they told it", told)
	o.Held = told == len(harness.FairleadNodes()) && strings.Contains(update, "64512") && strings.Contains(update, "192.168.10.1")
	return o, err
}

// throughRouter makes the client's way to the pool lead through the router.
func (d *demo) throughRouter(ctx context.Context) (harness.Observation, error) {
	const requests = 40
	o := harness.Observation{Expected: fmt.Sprintf("%d answers, by way of 4 nodes", requests)}
	via, err := d.lab.Exec(ctx, bgpRouter, "sh", "-c", "ip -4 -o addr show eth0 | awk '{print $4}' | grep ^172.20 | cut -d/ -f1")
	if err != nil {
		return o, err
	}
	if _, err := d.onHost(ctx, "mypc", 0, "ip", "route", "replace", "172.20.1.0/24", "via", strings.TrimSpace(via.Stdout)); err != nil {
		return o, err
	}
	loop := fmt.Sprintf("for i in $(seq %d); do curl -s --max-time 3 %s | grep RemoteAddr | cut -d: -f2; done | sort | uniq -c", requests, bgpVIP)
	res, err := d.onHost(ctx, "mypc", 0, "sh", "-c", loop)
	if err != nil {
		return o, err
	}
	nodes, err := d.lab.Nodes(ctx)
	if err != nil {
		return o, err
	}
	total, by := 0, map[string]int{}
	for line := range strings.Lines(res.Stdout) {
		n, from := 0, ""
		if _, err := fmt.Sscan(line, &n, &from); err == nil {
			total += n
			by[nodeOf(nodes, from)] += n
		}
	}
	d.t.Note("Under externalTrafficPolicy Cluster the pod sees the node through which a request came: by the\n" +
		"node's own address, or by 10.10.N.1, the one by which it speaks to its own pods.")
	o.Observed = fmt.Sprintf("%d answers, by way of %s", total, harness.Distribution(by))
	o.Held = total == requests && len(by) == len(harness.FairleadNodes())
	return o, nil
}

// nodeOf is the node that an address belongs to, its pods' included.
func nodeOf(nodes []corev1.Node, address string) string {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return address
	}
	for i := range nodes {
		for _, own := range nodes[i].Status.Addresses {
			if own.Address == address {
				return nodes[i].Name
			}
		}
		if pods, err := netip.ParsePrefix(nodes[i].Spec.PodCIDR); err == nil && pods.Contains(a) {
			return nodes[i].Name
		}
	}
	return address
}

func (d *demo) unrouted(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: "no route at the router, no session"}
	if _, err := d.typed(ctx, "delete", "svc", "svc-bgp", "--timeout=30s"); err != nil {
		return o, err
	}
	took, err := d.paths(ctx, func(paths []routers.Path) error {
		if len(paths) > 0 {
			return fmt.Errorf("the router still has %d paths", len(paths))
		}
		return nil
	})
	if err != nil {
		return o, err
	}
	if _, err := d.typed(ctx, "delete", "bgppeers,bgpadvertisements,bfdprofiles", "--all"); err != nil {
		return o, err
	}
	if _, err := d.typed(ctx, "delete", "ipaddresspools.fairlead.dev", "default"); err != nil {
		return o, err
	}
	if _, err := d.typed(ctx, "label", "--overwrite", "node", harness.FairleadNodes()[0], harness.ExcludeLabel+"="); err != nil {
		return o, err
	}
	_, err = d.sessions(ctx, closed)
	o.Observed, o.Held = fmt.Sprintf("withdrawn %.1f s after the command, sessions closed", took.Seconds()), err == nil
	return o, err
}
