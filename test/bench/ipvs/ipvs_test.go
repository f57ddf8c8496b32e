// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-lb/fairlead/test/bench/ipvs/nlmeter"
	"github.com/fairlead-lb/fairlead/test/harness"
)

func TestParseBenchmark(t *testing.T) {
	got := parseBenchmark("goos: linux\nBenchmarkIPVS/one-endpoint-2 \t 1\t 83477090 ns/op\t 63.95 cpu-ms\t 4.000 generic\t 46.38 ms\t 0 netfilter\t" +
		" 688.0 netlink-B\t 45.74 peak-MiB\t 5.000 requests\t 40 rss-MiB\nBenchmarkOther/full-2 1 2 ns/op\nPASS\n")
	want := Costs{Counts: nlmeter.Counts{Requests: 5, Generic: 4, Bytes: 688}, WorkMs: 46.38, WallMs: 46.38, CPUMs: 63.95, RSSMiB: 40, PeakMiB: 45.74}
	if len(got) != 1 || got["one-endpoint"] != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestReadResult(t *testing.T) {
	var got Result
	if err := readResult("noise\n"+resultMark+`{"kernel":"6.1"}`+"\nPASS\n", &got); err != nil || got.Kernel != "6.1" {
		t.Errorf("got %+v, %v", got, err)
	}
	if err := readResult("noise\n", &got); err == nil {
		t.Error("no result is none")
	}
}

func TestLoad(t *testing.T) {
	var sum Load
	for range 2 {
		sum.add(load(t.Context(), 0, func(_ context.Context, _ time.Time, note func(time.Duration, error)) {
			note(time.Millisecond, nil)
			note(3*time.Millisecond, nil)
			note(0, errors.New("failed"))
		}))
	}
	sum.sum()
	if sum.Requests != 4*clients || sum.Failed != 2*clients || sum.P50Ms != 3 || sum.P99Ms != 3 || sum.Rate <= 0 {
		t.Errorf("got %+v", sum)
	}
}

// A client of Kubernetes sees all objects of the stub, and then what changes.
func TestStub(t *testing.T) {
	const services = 20
	s := newStub(services)
	url, err := s.serve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(&rest.Config{Host: url, ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
	if err != nil {
		t.Fatal(err)
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	slices, all := factory.Discovery().V1().EndpointSlices().Informer(), factory.Core().V1().Services().Informer()
	changed := make(chan *discoveryv1.EndpointSlice, services)
	if _, err := slices.AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: func(_, o any) {
		if e, ok := o.(*discoveryv1.EndpointSlice); ok {
			changed <- e
		}
	}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	factory.Start(ctx.Done())
	t.Cleanup(func() { cancel(); factory.Shutdown() })
	if !cache.WaitForCacheSync(ctx.Done(), slices.HasSynced, all.HasSynced) {
		t.Fatal("the lists did not come")
	}
	if n, m := len(slices.GetStore().ListKeys()), len(all.GetStore().ListKeys()); n != services || m != services {
		t.Errorf("%d slices and %d services, want %d", n, m, services)
	}
	s.replaceEndpoint(7)
	select {
	case e := <-changed:
		if e.Name != "svc-00007" || e.Endpoints[1].Addresses[0] != "172.30.0.7" {
			t.Errorf("changed: %+v", e)
		}
	case <-ctx.Done():
		t.Error("the change did not come")
	}
	node, err := client.CoreV1().Nodes().Get(ctx, stubNode, metav1.GetOptions{})
	if err != nil || node.Status.Addresses[0].Address != nodeAddress {
		t.Errorf("the node is %+v: %v", node, err)
	}
}

func TestMarkdown(t *testing.T) {
	costs := func(requests uint64, ms float64) Costs {
		return Costs{Counts: nlmeter.Counts{Requests: requests}, WorkMs: ms}
	}
	r := Result{
		Date: "2026-01-01T00:00:00Z", Kernel: "6.1", Emulated: true, Machine: harness.Machine{Kernel: "6.2", Cores: 7},
		Programming: []*Programming{
			{Name: Name, Services: 20, VirtualServers: 40, Full: costs(100, 10)},
			{Name: proxyName, Services: 20, Full: costs(1000, 20000)},
			{Name: Name, Services: 40, VirtualServers: 80, Full: costs(200, 0)},
			{Name: proxyName, Services: 40, Full: costs(1500, 40000)},
			{Name: Name, Services: 4000, VirtualServers: 8000, Full: costs(7777, 10), Look: &Costs{WorkMs: 1}},
		},
		Paths: []Path{{Proxy: "nftables", Way: "a way", Kept: Load{Failed: 77}}},
	}
	text := r.Markdown()
	for _, want := range []string{
		"Linux 6.1", "Linux 6.2, , 7 cores", "emulated", "with 4000 Services: 8000 virtual servers", "| from nothing | 7777 |", "| a look each second |",
		"| 20 | 40 | from nothing | 100 | 1000 | 10.0 | 10 | 20000 | 2000.0 |", "| 40 | 80 | from nothing | 200 | 1500 | 7.5 | 0 | 40000 | – |",
		"Between 20 and 40 Services, each one more costs kube-proxy 25.0 requests and 1.00 s",
		"With 4000 Services kube-proxy was not measured.** If each one further costs it as much, that is 100500 requests and 1.1 h on this processor: computed, not measured.",
		"| nftables | a way |", "| 77 |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "table emptied") {
		t.Errorf("nothing was emptied:\n%s", text)
	}
	r.Programming = r.Programming[:4]
	if text := r.Markdown(); strings.Contains(text, "not measured") {
		t.Errorf("everything was measured:\n%s", text)
	}
	r.Failure = "it rained\nand more"
	if text := r.Markdown(); !strings.Contains(text, "**Failed:** it rained\n") || strings.Contains(text, "and more") {
		t.Errorf("it failed:\n%s", text)
	}
	r.Programming = r.Programming[:1]
	if text := r.Markdown(); !strings.Contains(text, "with 20 Services") || strings.Contains(text, "Beside") {
		t.Errorf("kube-proxy was not measured at all:\n%s", text)
	}
}

func TestUsual(t *testing.T) {
	if got := joinSizes(usual(true, 5000)); got != "10,20,40" {
		t.Errorf("emulated: %s", got)
	}
	if got := joinSizes(usual(false, 5000)); got != "100,1000,5000" {
		t.Errorf("not emulated: %s", got)
	}
}

func TestToolsOf4(t *testing.T) {
	bin, dir := t.TempDir(), t.TempDir()
	for _, name := range []string{"ipset", "iptables", "iptables-save", "iptables-restore", "ip6tables"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin)
	for range 2 { // the second finds what the first made
		tools, err := toolsOf4(dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(tools, "iptables-restore")); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(tools, "ip6tables")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("ip6tables: %v", err)
		}
	}
	t.Setenv("PATH", dir)
	if _, err := toolsOf4(dir); err == nil {
		t.Error("there is no ipset")
	}
}
