// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/routers"
)

const (
	// bgpRouter is the tutorial's router, at its address in the nodes' second network.
	bgpRouter        = "router"
	bgpRouterAddress = "192.168.10.254"
	// bgpVIP is the first address of the tutorial's pool that avoid-buggy-ips leaves.
	bgpVIP = "172.20.1.1"
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
 neighbor 192.168.10.10 remote-as 64512
 neighbor 192.168.10.101 remote-as 64512
 neighbor 192.168.10.102 remote-as 64512
 neighbor 192.168.10.103 remote-as 64512
 address-family ipv4 unicast
  network 10.1.1.0/24
  maximum-paths 4
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
	d.t.Step(ctx, "Every node has a session with the router", d.peered)
	d.t.Step(ctx, "A Service of that pool: the router has three ways to its address", d.routed)
	d.t.Step(ctx, "curl through the router", d.throughRouter)
	d.t.Step(ctx, "This chapter's objects go", d.unrouted)
}

// onRouter shows and runs one command of the router's shell.
func (d *demo) onRouter(ctx context.Context, command string) (string, error) {
	d.t.Command(bgpRouter, "vtysh -c '%s'", command)
	res, err := d.lab.Exec(ctx, bgpRouter, routers.RemoteVtysh("-c", command)...)
	d.t.Output(res.Stdout, 30)
	return res.Stdout, err
}

func (d *demo) router(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: "FRR is configured at " + bgpRouterAddress}
	d.t.Command("", "fairlead-lab add router %s", bgpRouter)
	res, err := d.lab.AddRouter(ctx, bgpRouter)
	d.t.Output(res.Stdout, 0)
	if err != nil {
		return o, err
	}
	d.t.Note("in the tutorial's configuration FRR also wants to be told that it may accept routes without a policy")
	d.t.Command(bgpRouter, "cat <<EOF | vtysh -f -\n%sEOF", bgpRouterConfig)
	if _, err := d.lab.Exec(ctx, bgpRouter, routers.RemoteStart()...); err != nil {
		return o, err
	}
	file, err := d.scratch("router.conf", bgpRouterConfig)
	if err != nil {
		return o, err
	}
	if _, err := d.lab.Exec(ctx, bgpRouter, routers.RemoteVtysh("-f", file)...); err != nil {
		return o, err
	}
	out, err := d.onRouter(ctx, "show bgp summary")
	o.Observed = strings.TrimSpace(res.Stdout)
	o.Held = strings.Contains(res.Stdout, bgpRouterAddress) && strings.Contains(out, "192.168.10.101")
	return o, err
}

func (d *demo) migrated(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: "a pool, a BGPPeer and a BGPAdvertisement, all of it carried over"}
	d.t.Command("", "cat <<EOF | kubectl fairlead migrate metallb -f - | kubectl apply -f -\n%sEOF", bgpConfigMap)
	res, err := d.lab.Plugin(ctx, bgpConfigMap, "migrate", "metallb", "-f", "-")
	d.t.Output(res.Stdout+res.Stderr, 0)
	if err != nil {
		return o, err
	}
	applied, err := d.lab.Apply(ctx, res.Stdout)
	d.t.Output(applied.Stdout+applied.Stderr, 0)
	if err != nil {
		return o, err
	}
	var missing []string
	for _, want := range []string{"ipaddresspool.fairlead.dev/default", "bgppeer.fairlead.dev/", "bgpadvertisement.fairlead.dev/"} {
		if !strings.Contains(applied.Stdout, want) {
			missing = append(missing, want)
		}
	}
	o.Observed, o.Held = strings.Join(strings.Fields(applied.Stdout), " "), len(missing) == 0
	return o, nil
}

func (d *demo) peered(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: "4 sessions Established, by the router and by Fairlead"}
	took, err := harness.Eventually(ctx, 60*time.Second, func(ctx context.Context) error {
		res, err := d.lab.Exec(ctx, bgpRouter, routers.RemoteVtysh("-c", "show bgp neighbors json")...)
		if err != nil {
			return err
		}
		all, err := routers.FRRSessions(res.Stdout)
		if err != nil {
			return err
		}
		for _, s := range all {
			if !s.Established {
				return fmt.Errorf("the router's session with %s is %s", s.Neighbor, s.State)
			}
		}
		return nil
	})
	if err != nil {
		return o, err
	}
	if _, err := d.onRouter(ctx, "show bgp summary"); err != nil {
		return o, err
	}
	d.t.Command("", "kubectl fairlead bgp peers")
	words := ""
	_, err = harness.Eventually(ctx, 30*time.Second, func(ctx context.Context) error {
		res, err := d.lab.Plugin(ctx, "", "bgp", "peers")
		words = res.Stdout + res.Stderr
		if n := strings.Count(words, "Established"); err == nil && n != 4 {
			err = fmt.Errorf("%d sessions Established in:\n%s", n, words)
		}
		return err
	})
	d.t.Output(words, 0)
	o.Observed, o.Held = fmt.Sprintf("4 Established, %.1f s after the command", took.Seconds()), err == nil
	return o, err
}

func (d *demo) routed(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: bgpVIP + ", told by three UPDATEs, with three next hops"}
	capture := filepath.Join(d.lab.StateDir(), "bgp-capture.txt")
	// The capture ends by itself, with the machine at the latest.
	_, err := d.lab.Exec(ctx, bgpRouter, "sh", "-c", "timeout 60 tcpdump -Z root -l -v -n -s 0 -i eth0 tcp port 179 >"+capture+" 2>&1 </dev/null & i=0; "+
		"while ! grep -q 'listening on' "+capture+" && [ $i -lt 200 ]; do i=$((i+1)); sleep 0.05; done")
	if err != nil {
		return o, err
	}
	if _, err := d.applied(ctx, bgpService); err != nil {
		return o, err
	}
	began := time.Now()
	prefix := netip.PrefixFrom(netip.MustParseAddr(bgpVIP), 32)
	var hops []string
	took, err := harness.Eventually(ctx, 30*time.Second, func(ctx context.Context) error {
		res, err := d.lab.Exec(ctx, bgpRouter, routers.RemoteVtysh("-c", routers.FRRShow(prefix)+" json")...)
		if err != nil {
			return err
		}
		paths, err := routers.FRRPaths(res.Stdout)
		if err != nil {
			return err
		}
		hops = nil
		for i := range paths {
			hops = append(hops, paths[i].NextHop.String())
		}
		slices.Sort(hops)
		if len(hops) != 3 {
			return fmt.Errorf("the router has %s by %v", bgpVIP, hops)
		}
		return nil
	})
	if err != nil {
		return o, err
	}
	d.t.Note("%.1f s after the command", time.Since(began).Seconds())
	if _, err := d.typed(ctx, "get", "svc", "svc-bgp"); err != nil {
		return o, err
	}
	if _, err := d.onRouter(ctx, "show ip route "+bgpVIP+"/32"); err != nil {
		return o, err
	}
	d.t.Note("the tutorial's picture of the packet, in words: what one node sent")
	d.t.Command(bgpRouter, "tcpdump -v -n -i eth0 tcp port 179")
	update := ""
	_, err = harness.Eventually(ctx, 10*time.Second, func(ctx context.Context) error {
		res, err := d.lab.Exec(ctx, bgpRouter, "cat", capture)
		if err != nil {
			return err
		}
		update, err = routers.FindUpdate(res.Stdout, bgpVIP)
		return err
	})
	d.t.Output(update, 0)
	o.Observed = fmt.Sprintf("next hops %s, %.1f s after the Service", strings.Join(hops, ", "), took.Seconds())
	o.Held = err == nil
	return o, err
}

// throughRouter makes the client's way to the pool lead through the router.
func (d *demo) throughRouter(ctx context.Context) (harness.Observation, error) {
	const requests = 30
	o := harness.Observation{Expected: fmt.Sprintf("%d answers, by way of three nodes", requests)}
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
	total, ways := 0, 0
	for line := range strings.Lines(res.Stdout) {
		n := 0
		if _, err := fmt.Sscan(line, &n); err == nil {
			total, ways = total+n, ways+1
		}
	}
	d.t.Note("under externalTrafficPolicy Cluster the pod sees the node through which a request came")
	o.Observed, o.Held = fmt.Sprintf("%d answers, by way of %d nodes", total, ways), total == requests && ways >= 2
	return o, nil
}

func (d *demo) unrouted(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: "no route at the router, no session"}
	if _, err := d.typed(ctx, "delete", "svc", "svc-bgp", "--timeout=30s"); err != nil {
		return o, err
	}
	prefix := netip.PrefixFrom(netip.MustParseAddr(bgpVIP), 32)
	took, err := harness.Eventually(ctx, 30*time.Second, func(ctx context.Context) error {
		res, err := d.lab.Exec(ctx, bgpRouter, routers.RemoteVtysh("-c", routers.FRRShow(prefix)+" json")...)
		if err != nil {
			return err
		}
		paths, err := routers.FRRPaths(res.Stdout)
		if err == nil && len(paths) > 0 {
			err = fmt.Errorf("the router still has %d paths", len(paths))
		}
		return err
	})
	if err != nil {
		return o, err
	}
	if _, err := d.typed(ctx, "delete", "bgppeers,bgpadvertisements", "--all"); err != nil {
		return o, err
	}
	if _, err := d.typed(ctx, "delete", "ipaddresspools.fairlead.dev", "default"); err != nil {
		return o, err
	}
	_, gone := harness.Eventually(ctx, 30*time.Second, func(ctx context.Context) error {
		res, err := d.lab.Exec(ctx, bgpRouter, routers.RemoteVtysh("-c", "show bgp neighbors json")...)
		if err != nil {
			return err
		}
		all, err := routers.FRRSessions(res.Stdout)
		if err == nil && slices.ContainsFunc(all, func(s routers.Session) bool { return s.Established }) {
			err = errors.New("a session is still up")
		}
		return err
	})
	o.Observed, o.Held = fmt.Sprintf("withdrawn %.1f s after the command, sessions closed", took.Seconds()), gone == nil
	return o, gone
}
