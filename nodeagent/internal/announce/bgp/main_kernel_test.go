// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package bgp

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/test/netns"
)

func TestMain(m *testing.M) { os.Exit(netns.Main(m)) }

// realRouter is BIRD or FRR in a network namespace, at 10.99.0.254 and 2001:db8:99::254,
// while this one is 10.99.0.1 and 2001:db8:99::1.
type realRouter struct {
	*netns.Other
	t   *testing.T
	dir string
}

func newRealRouter(t *testing.T, programs ...string) *realRouter {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Fatalf("%s is not there: apt-get install -y bird2 frr", p)
		}
	}
	netns.AddVeth(t, "lb0", "", "r0", "")
	r := &realRouter{Other: netns.NewOther(t), t: t, dir: t.TempDir()}
	r.Take("r0")
	r.Run("ip", "link", "set", "lo", "up")
	r.Run("ip", "link", "set", "r0", "up")
	r.Run("ip", "addr", "add", "10.99.0.254/24", "dev", "r0")
	r.Run("ip", "addr", "add", "2001:db8:99::254/64", "dev", "r0", "nodad")
	for _, args := range [][]string{{"10.99.0.1/24"}, {"2001:db8:99::1/64", "nodad"}} {
		out, err := exec.CommandContext(t.Context(), "ip", append([]string{"addr", "add", "dev", "lb0"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("add %s: %v\n%s", args[0], err, out)
		}
	}
	return r
}

func (r *realRouter) write(name, text string) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// stopAtEnd kills the daemon of a pid file, and waits for its end.
func (r *realRouter) stopAtEnd(pidFile string) {
	r.t.Cleanup(func() { r.kill(pidFile) })
}

func (r *realRouter) kill(pidFile string) {
	b, err := os.ReadFile(pidFile)
	if err != nil {
		return // it did not start, and the test said so
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid < 2 {
		r.t.Errorf("pid file %q", b)
		return
	}
	_ = syscall.Kill(pid, syscall.SIGKILL) // may be dead
	eventually(r.t, "a daemon ends", func() bool { return ended(pid) })
}

// ended says whether a process runs no more. Whoever is to collect it may take its time.
func ended(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

const birdBase = `router id 10.99.0.254;
protocol device { scan time 60; }
protocol kernel k4 { ipv4 { import none; export where source = RTS_BGP; }; merge paths yes limit 16; }
protocol kernel k6 { ipv6 { import none; export where source = RTS_BGP; }; merge paths yes limit 16; }
`

// bird starts BIRD with one BGP protocol named lb.
func (r *realRouter) bird(protocol string) {
	r.t.Helper()
	conf := r.write("bird.conf", birdBase+protocol)
	pid := filepath.Join(r.dir, "bird.pid")
	r.Run("bird", "-c", conf, "-s", filepath.Join(r.dir, "bird.ctl"), "-P", pid)
	r.stopAtEnd(pid)
}

func (r *realRouter) birdc(words ...string) string {
	r.t.Helper()
	return r.Run("birdc", append([]string{"-s", filepath.Join(r.dir, "bird.ctl")}, words...)...)
}

// frr starts zebra and bgpd, and bfdd if a neighbour has BFD.
func (r *realRouter) frr(conf string) {
	r.t.Helper()
	file := r.write("frr.conf", "frr defaults datacenter\n"+conf)
	r.Run("chown", "-R", "frr:frr", r.dir) // the daemons are that user
	r.Run("chmod", "755", filepath.Dir(r.dir))
	zserv := filepath.Join(r.dir, "zserv.api")
	daemons := []string{"zebra", "bgpd"}
	if strings.Contains(conf, " bfd\n") {
		daemons = []string{"zebra", "bfdd", "bgpd"}
	}
	for _, daemon := range daemons {
		pid := filepath.Join(r.dir, daemon+".pid")
		args := []string{"-d", "-f", file, "-i", pid, "-z", zserv, "--vty_socket", r.dir, "-A", "127.0.0.1", "-P", "0"}
		if daemon == "bfdd" {
			args = append(args, "--bfdctl", filepath.Join(r.dir, "bfdd.sock"))
		}
		r.Run("/usr/lib/frr/"+daemon, args...)
		r.stopAtEnd(pid)
	}
}

// vtysh runs a command of FRR and reads its JSON.
func (r *realRouter) vtysh(command string, into any) {
	r.t.Helper()
	out := r.Run("vtysh", "--vty_socket", r.dir, "-c", command)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		r.t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// realSpec is our side of a session with the router.
func realSpec(change func(*loadbalancer.BGPSession)) loadbalancer.BGPSession {
	s := loadbalancer.BGPSession{
		Peer: "r", MyASN: 64513, PeerASN: 64512, Addr: netip.MustParseAddr("10.99.0.254"), Port: 179,
		Hold: 90 * time.Second, Keepalive: 30 * time.Second, Connect: 100 * time.Millisecond, IdleHold: 100 * time.Millisecond,
		RouterID: netip.MustParseAddr("10.99.0.1"), IPv4: true, IPv6: true,
	}
	if change != nil {
		change(&s)
	}
	return s
}

// ours are the next hops of lb0.
func ours(netip.Addr) (four, six netip.Addr) {
	return netip.MustParseAddr("10.99.0.1"), netip.MustParseAddr("2001:db8:99::1")
}

// started is a speaker that a test ends itself.
func started(t *testing.T) (*Speaker, func(graceful bool)) {
	t.Helper()
	s := New(Options{ListenPort: 179})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return s, func(graceful bool) {
		t.Helper()
		if err := s.Stop(t.Context(), graceful); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
