// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package nodeagent

import (
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
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/bfd"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/bgp"
	"github.com/fairlead-lb/fairlead/test/netns"
)

// bird is BIRD in a network namespace, 10.9.0.254, whose other end here is 10.9.0.1.
type bird struct {
	*netns.Other
	t       *testing.T
	control string
}

func newBird(t *testing.T) *bird {
	t.Helper()
	for _, program := range []string{"bird", "birdc"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%v: install the Debian package bird2", err)
		}
	}
	netns.AddVeth(t, "lb0", "10.9.0.1/24", "tor0", "")
	b := &bird{netns.NewOther(t), t, filepath.Join(t.TempDir(), "ctl")}
	b.Take("tor0")
	b.Run("sh", "-c", "ip link set lo up && ip link set tor0 up && ip address add 10.9.0.254/24 dev tor0")
	conf, pid := b.control+".conf", b.control+".pid"
	text := `router id 10.9.0.254;
protocol device { scan time 60; }
protocol bfd { interface "tor0" { min rx interval 100 ms; min tx interval 100 ms; multiplier 5; }; }
protocol bgp lb { local 10.9.0.254 as 64512; neighbor 10.9.0.1 as 64513; passive yes; direct; bfd on; graceful restart on;
  error wait time 1,2; error forget time 10; connect delay time 1; hold time 90;
  ipv4 { import all; export none; }; }
`
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	b.Run("bird", "-c", conf, "-s", b.control, "-P", pid)
	t.Cleanup(func() {
		text, err := os.ReadFile(pid)
		if err != nil {
			t.Error(err)
			return
		}
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			_ = syscall.Kill(n, syscall.SIGKILL) // may have ended
		}
	})
	return b
}

// has says whether BIRD has a route that says a word.
func (b *bird) has(prefix, word string) bool {
	b.t.Helper()
	out, err := b.Try("birdc", "-s", b.control, "show", "route", "all", prefix)
	return err == nil && strings.Contains(out, "10.9.0.1 on tor0") && strings.Contains(out, word)
}

// until waits for something for long enough on a slow machine.
func (b *bird) until(what string, is func() bool) {
	b.t.Helper()
	for end := time.Now().Add(time.Minute); !is(); {
		if time.Now().After(end) {
			b.t.Fatalf("%s: not within a minute:\n%s", what, b.Run("birdc", "-s", b.control, "show", "route", "all")+b.Run("birdc", "-s", b.control, "show", "protocols", "all", "lb"))
		}
		pause(b.t.Context(), 20*time.Millisecond)
	}
}

// The whole agent with its real speaker and a real router: what is bound is told, a restart
// keeps it, and a leave asks for the least preference before it withdraws.
func TestAgentTellsBird(t *testing.T) {
	b := newBird(t)
	const prefix = "198.51.100.1/32"
	s := newSim(t)
	s.drain = 3 * time.Second
	s.connect = func() (speaker, detector) {
		d := bfd.New(bfd.Options{})
		return bgp.New(bgp.Options{Detector: d}), d
	}
	s.configure(loadbalancer.BGPSession{
		Peer: "tor", MyASN: 64513, PeerASN: 64512, Addr: netip.MustParseAddr("10.9.0.254"), Port: 179, IPv4: true, GracefulRestart: true,
		Hold: 90 * time.Second, Keepalive: 30 * time.Second, Connect: time.Second, IdleHold: time.Second, RouterID: netip.MustParseAddr("10.9.0.1"),
		BFD: loadbalancer.BFDSession{Profile: "p", Receive: 100 * time.Millisecond, Transmit: 100 * time.Millisecond, Multiplier: 5, MinTTL: 255},
	})
	s.tellOnly("198.51.100.1", loadbalancer.Cluster)
	s.start("a")
	b.until("told", func() bool { return b.has(prefix, "BGP.as_path: 64513") })
	b.until("said in the API", func() bool { return s.sessions("a") == "tor Established 1" })
	b.until("watched", func() bool {
		n, ok := s.agents.Peek("a")
		return ok && len(n.Status.BGP) == 1 && n.Status.BGP[0].BFD == "Up"
	})

	// Nothing may be missing at any time from here on.
	kept, over := make(chan bool), make(chan struct{})
	go func() {
		all := true
		for {
			select {
			case <-over:
				kept <- all
				return
			default:
				all = all && b.has(prefix, "")
			}
		}
	}()
	s.sigterm("a")
	s.start("a")
	speaker := s.nodes["a"].agent.speaker
	b.until("established again", func() bool {
		st := speaker.States()
		return len(st) == 1 && st[0].State == bgp.Established && st[0].Prefixes == 1
	})
	pause(t.Context(), time.Second)
	close(over)
	if !<-kept {
		t.Error("the restart lost the route")
	}

	a := s.nodes["a"]
	a.unwant()
	a.cancel()
	b.until("draining", func() bool { return b.has(prefix, "(65535,0)") })
	b.until("withdrawn", func() bool { return !b.has(prefix, "") })
	s.sigterm("a") // waits for the end
	if got := s.sessions("a"); got != "" {
		t.Errorf("after the end the API says %q", got)
	}
}
