// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/lab/host"
)

// lab drives the real command, because the hosts' PID 1 is that executable.
type lab struct {
	bin, dir string
}

func (l *lab) run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	full := append([]string{args[0], "--state-dir", l.dir}, args[1:]...)
	cmd := exec.CommandContext(t.Context(), l.bin, full...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	t.Logf("%s: %v %s", strings.Join(args, " "), err, errOut.String())
	return out.String(), err
}

func (l *lab) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := l.run(t, args...)
	if err != nil {
		t.Fatalf("%s: %v", args[0], err)
	}
	return out
}

// patience is how long a test waits for what has to happen, on a machine that may be slow.
const patience = time.Minute

func eventually(t *testing.T, what string, limit time.Duration, f func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for !f() {
		if host.Pause(ctx, 300*time.Millisecond) != nil {
			t.Fatalf("%s: not within %s", what, limit)
		}
	}
}

const pod = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","labels":{"app":"web"}},"spec":{"nodeName":"worker",
"tolerations":[{"operator":"Exists"}],"containers":[{"name":"c","image":"traefik/whoami"}]}}`

// TestLab is the whole life of a lab: up, traffic, faults, power cut, return,
// crash of a second up beside it, down. Run as root with -tags e2e; the binaries must be
// built already (fairlead-lab build) or the test takes long.
func TestLab(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "fairlead-lab")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	mounts := read(t, "/proc/mounts")
	l := &lab{bin: bin, dir: filepath.Join(t.TempDir(), "lab")}
	t.Cleanup(func() {
		if out, err := exec.CommandContext(context.WithoutCancel(t.Context()), bin, "down", "--state-dir", l.dir).CombinedOutput(); err != nil {
			t.Errorf("down: %v: %s", err, out)
		}
	})
	l.must(t, "up", "--nodes", "2", "--without-fairlead")
	manifest := filepath.Join(t.TempDir(), "pod.json")
	if err := os.WriteFile(manifest, []byte(pod), 0o600); err != nil {
		t.Fatal(err)
	}
	l.must(t, "kubectl", "--", "apply", "-f", manifest)
	l.must(t, "kubectl", "--", "wait", "--for=condition=Ready", "pod/web", "--timeout=120s")
	answers := func() bool {
		ip, err := l.run(t, "kubectl", "--", "get", "pod", "web", "-o", "jsonpath={.status.podIP}")
		if err != nil {
			return false
		}
		out, err := l.run(t, "exec", "control-plane", "--", "curl", "-s", "-m", "1", ip)
		return err == nil && strings.Contains(out, "Hostname: web\n")
	}
	eventually(t, "the pod answers", patience, answers)
	faults(t, l)
	t.Run("power cut and return", func(t *testing.T) {
		if out := l.must(t, "kill", "worker"); !strings.HasPrefix(out, "cut at ") {
			t.Errorf("kill printed %q", out)
		}
		if _, err := l.run(t, "exec", "mypc", "--", "ping", "-c1", "-W1", "172.20.0.4"); err == nil {
			t.Error("a killed node answers")
		}
		if on, _ := node(t, l, "worker"); on {
			t.Error("a killed node is shown as running")
		}
		l.must(t, "start", "worker")
		eventually(t, "the pod answers again", patience, answers)
	})
	t.Run("cable", func(t *testing.T) {
		l.must(t, "link", "worker", "down")
		if _, up := node(t, l, "worker"); up {
			t.Error("a pulled cable is shown as plugged")
		}
		l.must(t, "link", "worker", "up")
		eventually(t, "the node answers", patience, func() bool {
			_, err := l.run(t, "exec", "mypc", "--", "ping", "-c1", "-W1", "172.20.0.4")
			return err == nil
		})
	})
	t.Run("frozen API server", func(t *testing.T) {
		l.must(t, "pause", "apiserver")
		if _, err := l.run(t, "kubectl", "--", "get", "nodes", "--request-timeout=2s"); err == nil {
			t.Error("a frozen API server answers")
		}
		l.must(t, "resume", "apiserver")
		l.must(t, "kubectl", "--", "get", "nodes", "--request-timeout=60s")
	})
	t.Run("crash beside it", func(t *testing.T) { crashed(t, bin) })
	l.must(t, "down")
	if _, err := os.Stat(l.dir); !os.IsNotExist(err) {
		t.Errorf("the state directory is left: %v", err)
	}
	if got := read(t, "/proc/mounts"); got != mounts {
		t.Errorf("mounts of the machine changed:\n%s", got)
	}
}

// crashed kills an up in the middle and expects down to clean up.
func crashed(t *testing.T, bin string) {
	t.Helper()
	l := &lab{bin: bin, dir: filepath.Join(t.TempDir(), "crash")}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if err := exec.CommandContext(ctx, bin, "up", "--state-dir", l.dir, "--nodes", "1", "--without-fairlead").Run(); err == nil {
		t.Fatal("up was done before it could be killed")
	}
	if _, err := l.run(t, "up", "--nodes", "1", "--without-fairlead"); err == nil {
		t.Error("up starts over what a crash left")
	}
	l.must(t, "down")
	if _, err := os.Stat(l.dir); !os.IsNotExist(err) {
		t.Errorf("the state directory is left: %v", err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func node(t *testing.T, l *lab, name string) (running, linkUp bool) {
	t.Helper()
	var s struct {
		Hosts []struct {
			Name    string `json:"name"`
			Running bool   `json:"running"`
			LinkUp  bool   `json:"linkUp"`
		} `json:"hosts"`
	}
	if err := json.Unmarshal([]byte(l.must(t, "status", "-o", "json")), &s); err != nil {
		t.Fatal(err)
	}
	for _, h := range s.Hosts {
		if h.Name == name {
			return h.Running, h.LinkUp
		}
	}
	t.Fatalf("no host %s in the status", name)
	return false, false
}
