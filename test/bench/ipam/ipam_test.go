// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-lb/fairlead/test/harness/plane"
)

func TestParseBenchmarks(t *testing.T) {
	got := ParseBenchmarks("goos: linux\nBenchmarkAllocateRelease/pool=10.0.0.0/8/fill=50%/random-2 \t 1000\t 312.5 ns/op\t 300.0 cpu-ns/op\t 7 B/op\t 1 allocs/op\n" +
		"BenchmarkColdStart50000 \t 3\t 2100000000 ns/op\t 0.5 MB/s\t 12 B/op\t 9 allocs/op\nPASS\nok  \tx\t1.2s\n")
	want := []Micro{
		{Name: "AllocateRelease/pool=10.0.0.0/8/fill=50%/random", Iterations: 1000, NsPerOp: 312.5, CPUNsPerOp: 300, BytesPerOp: 7, AllocsPerOp: 1},
		{Name: "ColdStart50000", Iterations: 3, NsPerOp: 2.1e9, BytesPerOp: 12, AllocsPerOp: 9},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	slower := got[0]
	slower.NsPerOp, slower.CPUNsPerOp, slower.AllocsPerOp = 900, 800, 3
	if f := fastest([]Micro{slower, got[1], got[0]}); len(f) != 2 || f[0].NsPerOp != 312.5 || f[0].AllocsPerOp != 3 {
		t.Errorf("fastest: %+v", f)
	}
	faults := strings.Join(MicroFaults(got), "\n")
	for _, part := range []string{"allocates 1 times", "takes 2.10 s"} {
		if !strings.Contains(faults, part) {
			t.Errorf("faults %q, want one with %q", faults, part)
		}
	}
}

func TestCountTellsWritersAndKindsApart(t *testing.T) {
	const gc = "system:serviceaccount:kube-system:generic-garbage-collector"
	var s Step
	s.count([]plane.Request{
		{Verb: "patch", User: controllerUser, Resource: "services/status", Code: 200},
		{Verb: "patch", User: controllerUser, Resource: "services/status", Code: 200},
		{Verb: "create", User: controllerUser, Resource: "ipclaims.fairlead.dev", Code: 201},
		{Verb: "create", User: controllerUser, Resource: "ipclaims.fairlead.dev", Code: 409},
		{Verb: "create", User: controllerUser, Resource: "events", Code: 201},
		{Verb: "update", User: controllerUser, Resource: "leases.coordination.k8s.io", Code: 200},
		{Verb: "create", User: controllerUser, Resource: "subjectaccessreviews.authorization.k8s.io", Code: 201},
		{Verb: "get", User: controllerUser, Resource: "services", Code: 200},
		{Verb: "delete", User: gc, Resource: "loadbalancers.fairlead.dev", Code: 200},
	}, 2)
	if s.ControllerWrites != 1.5 || s.EventWrites != 0.5 || s.Reads != 1 {
		t.Errorf("writes %v, events %v, reads %v; want 1.5, 0.5, 1", s.ControllerWrites, s.EventWrites, s.Reads)
	}
	if f := RolloutFaults([]Step{s}); len(f) != 0 {
		t.Errorf("faults %q, want none", f)
	}
	s.ControllerWrites = 5.6
	if f := RolloutFaults([]Step{s}); len(f) != 1 {
		t.Errorf("faults %q, want one", f)
	}
	want := []Write{
		{Writer: "Fairlead's controller", Verb: "patch", Resource: "services/status", Done: 2, PerService: 1},
		{Writer: "Fairlead's controller", Verb: "create", Resource: "events", Done: 1, PerService: 0.5},
		{Writer: "Fairlead's controller", Verb: "create", Resource: "ipclaims.fairlead.dev", Done: 1, Refused: 1, PerService: 0.5},
		{Writer: "kube-system:generic-garbage-collector", Verb: "delete", Resource: "loadbalancers.fairlead.dev", Done: 1, PerService: 0.5},
	}
	if d := cmp.Diff(want, s.Writes); d != "" {
		t.Error(d)
	}
}

func TestPercentile(t *testing.T) {
	values := make([]float64, 100)
	for i := range values {
		values[i] = float64(i + 1)
	}
	for p, want := range map[int]float64{50: 50, 99: 99, 100: 100} {
		if got := percentile(values, p); got != want {
			t.Errorf("percentile %d is %v, want %v", p, got, want)
		}
	}
}

func TestCountersOfALab(t *testing.T) {
	const line = `apiserver_request_total{code="%C",component="apiserver",dry_run="",group="%G",resource="%R",scope="resource",subresource="%S",verb="%V",version="v1"} %N` + "\n"
	metric := func(code, group, resource, subresource, verb, n string) string {
		return strings.NewReplacer("%C", code, "%G", group, "%R", resource, "%S", subresource, "%V", verb, "%N", n).Replace(line)
	}
	before := ParseCounters(metric("200", "", "services", "status", "PATCH", "3"))
	after := ParseCounters("# HELP x\n" + metric("200", "", "services", "status", "PATCH", "7") + metric("409", "", "services", "status", "PATCH", "5") +
		metric("201", "fairlead.dev", "ipclaims", "", "POST", "2") + metric("200", "fairlead.dev", "ipclaims", "", "GET", "9") +
		metric("200", "fairlead.dev", "nodeagents", "status", "APPLY", "4") + metric("201", "", "events", "", "POST", "8"))
	r := LabResult{Services: 2}
	r.count(before, after)
	if r.ObjectWrites != 3 {
		t.Errorf("%v object writes per service, want 3: %+v", r.ObjectWrites, r.Writes)
	}
	want := []Write{
		{Verb: "POST", Resource: "events", Done: 8, PerService: 4},
		{Verb: "APPLY", Resource: "nodeagents.fairlead.dev/status", Done: 4, PerService: 2},
		{Verb: "PATCH", Resource: "services/status", Done: 4, PerService: 2},
		{Verb: "POST", Resource: "ipclaims.fairlead.dev", Done: 2, PerService: 1},
	}
	if d := cmp.Diff(want, r.Writes); d != "" {
		t.Error(d)
	}
}
