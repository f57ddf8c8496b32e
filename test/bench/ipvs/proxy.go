// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/fairlead-lb/fairlead/test/bench/ipvs/nlmeter"
	"github.com/fairlead-lb/fairlead/test/harness/plane"
)

const nodeAddress = "10.0.0.1"

const proxyName = "kube-proxy v1.37, mode ipvs"

// clockTick is the unit of times in /proc/PID/stat.
const clockTick = 10 * time.Millisecond

// fullPatience with one sync: it runs a program for each element of a set.
const fullPatience = 40 * time.Minute

// lookEvery is how often kube-proxy is asked whether it is done: often enough, and seldom
// enough for the answers to cost it little.
const lookEvery = 500 * time.Millisecond

// changesOfProxy is how many endpoints are replaced, one after another.
const changesOfProxy = 3

// MeasureProxy has kube-proxy program as many virtual servers, from the same Services, in
// the network namespace of this process, which must be new. Dir gets its log.
func MeasureProxy(ctx context.Context, program, dir string, services int) (*Programming, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := nodeLinks(); err != nil {
		return nil, err
	}
	api := newStub(services)
	url, err := api.serve(ctx)
	if err != nil {
		return nil, err
	}
	meter, err := nlmeter.Open()
	if err != nil {
		return nil, err //nolint:wrapcheck // says what failed
	}
	defer func() { _ = meter.Close() }() // the namespace ends with us
	p := &proxy{meter: meter}
	before, err := meter.Read()
	if err != nil {
		return nil, err //nolint:wrapcheck // says what failed
	}
	began := time.Now()
	if p.proc, err = startProxy(ctx, program, dir, url); err != nil {
		return nil, err
	}
	defer func() { _ = p.proc.Stop() }() // or it dies with us
	out := &Programming{Name: proxyName, Services: services}
	if err := p.until(ctx, fullPatience, func(m proxyMetrics) bool { return m.syncs > 0 }); err != nil {
		return nil, err
	}
	if out.VirtualServers, out.RealServers, err = programmed(); err != nil {
		return nil, err
	}
	if out.Full, err = p.costs(ctx, before, began, 0, proxyMetrics{}); err != nil {
		return nil, err
	}
	if out.VirtualServers != 2*services || out.RealServers != 2*services*endpoints {
		return out, fmt.Errorf("kube-proxy made %d virtual servers with %d real ones of %d Services", out.VirtualServers, out.RealServers, services)
	}
	for i := range changesOfProxy {
		c, err := p.change(ctx, api, i+1)
		if err != nil {
			return out, err
		}
		out.changes = append(out.changes, c)
	}
	out.Change = median(out.changes)
	return out, nil
}

type proxy struct {
	proc  *plane.Process
	meter *nlmeter.Meter
}

// nodeLinks gives this namespace what kube-proxy looks for on a node.
func nodeLinks() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("make a node: %w", err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	eth0 := &netlink.Dummy{LinkAttrs: attrs}
	addr, err := netlink.ParseAddr(nodeAddress + "/24")
	if err != nil {
		return fmt.Errorf("make a node: %w", err)
	}
	for _, err := range []error{
		netlink.LinkSetUp(lo), netlink.LinkAdd(eth0), netlink.AddrAdd(eth0, addr), netlink.LinkSetUp(eth0),
		netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: netip.MustParseAddr("10.0.0.254").AsSlice()}),
	} {
		if err != nil {
			return fmt.Errorf("make a node: %w", err)
		}
	}
	return nil
}

func startProxy(ctx context.Context, program, dir, url string) (*plane.Process, error) {
	config := filepath.Join(dir, "proxy.kubeconfig")
	text := "apiVersion: v1\nkind: Config\ncurrent-context: stub\nclusters: [{name: stub, cluster: {server: \"" + url + "\"}}]\n" +
		"contexts: [{name: stub, context: {cluster: stub}}]\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("start kube-proxy: %w", err)
	}
	tools, err := toolsOf4(dir)
	if err != nil {
		return nil, err
	}
	return plane.StartProcess(ctx, plane.Program{ //nolint:wrapcheck // says what failed
		Name: "kube-proxy", LogFile: filepath.Join(dir, "kube-proxy.log"), Path: program, Env: []string{"PATH=" + tools},
		Args: []string{
			"--kubeconfig=" + config, "--hostname-override=" + stubNode, "--proxy-mode=ipvs", "--cluster-cidr=172.16.0.0/12",
			"--conntrack-max-per-core=0", "--conntrack-min=0", "--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s",
			"--kube-api-content-type=application/json",
			// Only what a change causes is to be seen.
			"--ipvs-sync-period=1h",
		},
	})
}

// toolsOf4 makes a directory with the programs that kube-proxy runs for IPv4. Where it finds
// those for IPv6 it goes on to program that family, which has no Service here: that is no
// part of what is compared.
func toolsOf4(dir string) (string, error) {
	tools := filepath.Join(dir, "tools")
	if err := os.RemoveAll(tools); err != nil {
		return "", fmt.Errorf("start kube-proxy: %w", err)
	}
	if err := os.Mkdir(tools, 0o700); err != nil {
		return "", fmt.Errorf("start kube-proxy: %w", err)
	}
	for _, name := range []string{"ipset", "iptables", "iptables-save", "iptables-restore"} {
		path, err := exec.LookPath(name)
		if err != nil {
			return "", fmt.Errorf("start kube-proxy: %w", err)
		}
		if err := os.Symlink(path, filepath.Join(tools, name)); err != nil {
			return "", fmt.Errorf("start kube-proxy: %w", err)
		}
	}
	return tools, nil
}

// proxyMetrics are kube-proxy's own.
type proxyMetrics struct {
	syncs   float64
	seconds float64
}

func readMetrics(ctx context.Context) (proxyMetrics, error) {
	var out proxyMetrics
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:10249/metrics", http.NoBody)
	if err != nil {
		return out, fmt.Errorf("read kube-proxy's metrics: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return out, fmt.Errorf("read kube-proxy's metrics: %w", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return out, fmt.Errorf("read kube-proxy's metrics: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, _, _ = strings.Cut(name, "{")
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			continue
		}
		switch name {
		case "kubeproxy_sync_proxy_rules_duration_seconds_count":
			out.syncs += n
		case "kubeproxy_sync_proxy_rules_duration_seconds_sum":
			out.seconds += n
		}
	}
	return out, nil
}

// until waits for kube-proxy's metrics to say something.
func (p *proxy) until(ctx context.Context, patience time.Duration, done func(proxyMetrics) bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("kube-proxy is not done within %s", patience))
	defer cancel()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if err := p.proc.Err(); err != nil {
			return err //nolint:wrapcheck // says what failed
		}
		if m, err := readMetrics(ctx); err == nil && done(m) {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// change replaces an endpoint of one Service and waits until kube-proxy has done what it
// does about it.
func (p *proxy) change(ctx context.Context, api *stub, service int) (Costs, error) {
	metrics, err := readMetrics(ctx)
	if err != nil {
		return Costs{}, err
	}
	before, err := p.meter.Read()
	if err != nil {
		return Costs{}, err //nolint:wrapcheck // says what failed
	}
	cpu, err := cpuOf(p.proc.PID())
	if err != nil {
		return Costs{}, err
	}
	began := time.Now()
	api.replaceEndpoint(service)
	if err := p.until(ctx, fullPatience, func(m proxyMetrics) bool { return m.syncs > metrics.syncs }); err != nil {
		return Costs{}, err
	}
	return p.costs(ctx, before, began, cpu, metrics)
}

// costs since a time. Its time is kube-proxy's own measure of its work: it waits a second
// between two changes, which is no cost.
func (p *proxy) costs(ctx context.Context, before nlmeter.Counts, began time.Time, cpu time.Duration, metrics proxyMetrics) (Costs, error) {
	wall := time.Since(began)
	after, err := p.meter.Read()
	if err != nil {
		return Costs{}, err //nolint:wrapcheck // says what failed
	}
	m, err := readMetrics(ctx)
	if err != nil {
		return Costs{}, err
	}
	used, err := cpuOf(p.proc.PID())
	if err != nil {
		return Costs{}, err
	}
	c := Costs{Counts: after.Sub(before), WorkMs: 1000 * (m.seconds - metrics.seconds), WallMs: ms(wall), CPUMs: ms(used - cpu)}
	c.RSSMiB, c.PeakMiB, err = memoryOf(p.proc.PID())
	return c, err
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// programmed counts the virtual and real servers of this namespace.
func programmed() (servers, reals int, err error) {
	b, err := os.ReadFile("/proc/thread-self/net/ip_vs")
	if err != nil {
		return 0, 0, fmt.Errorf("read the table: %w", err)
	}
	for line := range bytes.Lines(b) {
		switch {
		case bytes.HasPrefix(line, []byte("TCP ")):
			servers++
		case bytes.HasPrefix(line, []byte("  -> ")) && !bytes.Contains(line, []byte("RemoteAddress")):
			reals++
		}
	}
	return servers, reals, nil
}

// cpuOf is the processor time of a process and of its children that have ended.
func cpuOf(pid int) (time.Duration, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, fmt.Errorf("read the processor time: %w", err)
	}
	_, rest, found := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if !found || len(f) < 15 {
		return 0, fmt.Errorf("read the processor time: %q", b)
	}
	var ticks int64
	for _, s := range f[11:15] { // utime stime cutime cstime
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read the processor time: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// memoryOf is what a process holds, and the most that it held.
func memoryOf(pid int) (rss, peak float64, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0, 0, fmt.Errorf("read the memory: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		kib, parseErr := strconv.ParseFloat(f[1], 64)
		switch f[0] {
		case "VmRSS:":
			rss, err = kib/1024, errors.Join(err, parseErr)
		case "VmHWM:":
			peak, err = kib/1024, errors.Join(err, parseErr)
		}
	}
	return rss, peak, err
}
