// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// faultObjects are a dual-stack Service in front of the pod web, and a pod that
// passes for Fairlead's agent: the lab knows it by the name of its process.
const faultObjects = `{"apiVersion":"v1","kind":"List","items":[
{"apiVersion":"v1","kind":"Service","metadata":{"name":"web"},"spec":{"type":"NodePort","ipFamilyPolicy":"RequireDualStack",
 "selector":{"app":"web"},"ports":[{"port":80,"nodePort":30080}]}},
{"apiVersion":"v1","kind":"Pod","metadata":{"name":"agent"},"spec":{"nodeName":"worker","hostNetwork":true,"terminationGracePeriodSeconds":0,
 "tolerations":[{"operator":"Exists"}],"containers":[{"name":"c","image":"nicolaka/netshoot",
 "command":["bash","-c","exec -a fairlead-node-agent sleep 3600"]}]}}]}`

// faults breaks a lab of two nodes in every way that leaves the nodes on.
func faults(t *testing.T, l *lab) {
	t.Helper()
	manifest := filepath.Join(t.TempDir(), "objects.json")
	if err := os.WriteFile(manifest, []byte(faultObjects), 0o600); err != nil {
		t.Fatal(err)
	}
	l.must(t, "kubectl", "--", "apply", "-f", manifest)
	t.Run("both families", func(t *testing.T) { bothFamilies(t, l) })
	t.Run("partition of peers", func(t *testing.T) { peersCut(t, l) })
	t.Run("partition of the API server", func(t *testing.T) {
		l.must(t, "partition", "worker", "--from", "api")
		if l.reaches(t, "worker", "https://172.20.0.5:6443/readyz") {
			t.Error("the API server answers a node that is cut off from it")
		}
		eventually(t, "no more is cut than the API server for one node", patience, func() bool {
			return l.pings(t, "worker", "172.20.0.5") && l.reaches(t, "mypc", "https://172.20.0.5:6443/readyz")
		})
		l.must(t, "heal")
		eventually(t, "the API server answers after heal", patience, func() bool { return l.reaches(t, "worker", "https://172.20.0.5:6443/readyz") })
	})
	t.Run("agent", func(t *testing.T) { agentFaults(t, l) })
	t.Run("burn", func(t *testing.T) {
		l.must(t, "burn", "worker", "--loops", "2", "--for", "5s")
		if out := l.must(t, "exec", "worker", "--", "ps", "-eo", "args"); !strings.Contains(out, "fairlead-lab spin 2 5s") {
			t.Errorf("nothing burns:\n%s", out)
		}
		eventually(t, "the fire is out", patience, func() bool {
			out, err := l.run(t, "exec", "worker", "--", "ps", "-eo", "args")
			return err == nil && !strings.Contains(out, "spin 2 5s")
		})
	})
}

// pings sends one echo request.
func (l *lab) pings(t *testing.T, host, address string) bool {
	t.Helper()
	_, err := l.run(t, "exec", host, "--", "ping", "-c1", "-W1", address)
	return err == nil
}

// reaches says whether a server answers, be it with an error.
func (l *lab) reaches(t *testing.T, host, url string) bool {
	t.Helper()
	_, err := l.run(t, "exec", host, "--", "curl", "-gsk", "-m", "2", "-o", "/dev/null", url)
	return err == nil
}

// urls lead from a client to the pod on worker, by way of either node and in
// either family.
func urls() []string {
	return []string{
		"http://172.20.0.4:30080/", "http://[fd00:172:20::4]:30080/",
		"http://172.20.0.5:30080/", "http://[fd00:172:20::5]:30080/",
	}
}

func bothFamilies(t *testing.T, l *lab) {
	t.Helper()
	for _, url := range urls() {
		eventually(t, url+" answers", patience, func() bool { return l.reaches(t, "mypc", url) })
	}
	out := l.must(t, "exec", "mypc", "--", "ndisc6", "fd00:172:20::4", "eth0")
	if !strings.Contains(out, "02:42:AC:14:00:04") {
		t.Errorf("neighbour solicitation: %s", out)
	}
	out = l.must(t, "kubectl", "--", "get", "nodes", "-o", "wide")
	if !strings.Contains(out, "172.20.0.4") || strings.Contains(out, "fd00:") {
		t.Errorf("IPv4 is not first:\n%s", out)
	}
}

func peersCut(t *testing.T, l *lab) {
	t.Helper()
	if out := l.must(t, "partition", "--from", "peers", "worker"); !strings.HasPrefix(out, "cut at ") {
		t.Errorf("partition printed %q", out)
	}
	for _, a := range []string{"172.20.0.5", "fd00:172:20::5", "192.168.10.10"} {
		if l.pings(t, "worker", a) {
			t.Errorf("%s answers across the cut", a)
		}
	}
	if _, err := l.run(t, "exec", "worker", "--", "arping", "-c", "1", "-w", "1", "-I", "eth0", "172.20.0.5"); err == nil {
		t.Error("an ARP request gets across the cut")
	}
	if _, err := l.run(t, "exec", "worker", "--", "ndisc6", "-r", "1", "fd00:172:20::5", "eth0"); err == nil {
		t.Error("a neighbour solicitation gets across the cut")
	}
	eventually(t, "the API server is not cut off", patience, func() bool { return l.reaches(t, "worker", "https://172.20.0.5:6443/readyz") })
	for _, url := range urls() {
		eventually(t, "a client gets to "+url, patience, func() bool { return l.reaches(t, "mypc", url) })
	}
	l.must(t, "kubectl", "--", "logs", "agent")
	if out := l.must(t, "status"); !strings.Contains(out, "worker cut off from peers") {
		t.Errorf("status does not tell:\n%s", out)
	}
	if out := l.must(t, "heal"); !strings.HasPrefix(out, "healed at ") {
		t.Errorf("heal printed %q", out)
	}
	for _, a := range []string{"172.20.0.5", "fd00:172:20::5"} {
		eventually(t, a+" answers after heal", patience, func() bool { return l.pings(t, "worker", a) })
	}
	if out := l.must(t, "exec", "worker", "--", "ip", "neigh", "show", "nud", "permanent"); strings.Contains(out, "eth0") {
		t.Errorf("neighbours stay permanent:\n%s", out)
	}
}

func agentFaults(t *testing.T, l *lab) {
	t.Helper()
	state := func() string {
		out := l.must(t, "exec", "worker", "--", "ps", "-eo", "pid=,stat=,args=")
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) > 2 && f[2] == agentName {
				return f[0] + " " + f[1][:1]
			}
		}
		return ""
	}
	eventually(t, "the agent runs", patience, func() bool { return strings.HasSuffix(state(), " S") })
	first := state()
	l.must(t, "pause", "worker/agent")
	if got := state(); !strings.HasSuffix(got, " T") {
		t.Errorf("a frozen agent is %q", got)
	}
	l.must(t, "resume", "worker/agent")
	if got := state(); got != first {
		t.Errorf("the agent is %q, want %q again", got, first)
	}
	quota := func() string {
		out, err := l.run(t, "exec", "worker", "--", "sh", "-c",
			"cat $(find /sys/fs/cgroup/ -path '*k8s.io*' \\( -name cpu.cfs_quota_us -o -name cpu.max \\))")
		if err != nil {
			t.Error(err)
		}
		return out
	}
	l.must(t, "limit", "worker/agent", "50m")
	if got := quota(); !strings.Contains(got, "5000") {
		t.Errorf("quotas of containers:\n%s", got)
	}
	l.must(t, "limit", "worker/agent", "none")
	if got := quota(); strings.Contains(got, "5000") {
		t.Errorf("quotas of containers after the limit is lifted:\n%s", got)
	}
	if out := l.must(t, "kill-agent", "worker"); !strings.HasPrefix(out, "killed at ") {
		t.Errorf("kill-agent printed %q", out)
	}
	eventually(t, "the agent is started again", patience, func() bool { s := state(); return s != "" && s != first })
}

// agentName is the process name of Fairlead's node agent.
const agentName = "fairlead-node-agent"
