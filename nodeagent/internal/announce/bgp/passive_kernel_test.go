// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package bgp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// birdCalls is a BIRD protocol that connects to us, and soon again.
func birdCalls(options string) string {
	return birdLB("passive off; connect retry time 1; " + options)
}

// comesIn is our side of a session that the router begins.
func comesIn(change func(*loadbalancer.BGPSession)) loadbalancer.BGPSession {
	return realSpec(func(s *loadbalancer.BGPSession) {
		s.Passive = true
		if change != nil {
			change(s)
		}
	})
}

// listensOn says whether somebody listens on port 179 of an address here.
func listensOn(t *testing.T, addr string) bool {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ss", "-Hltn", "sport", "=", "179").CombinedOutput()
	if err != nil {
		t.Fatalf("ss: %v\n%s", err, out)
	}
	return strings.Contains(string(out), addr)
}

func TestBIRDConnectsToUs(t *testing.T) {
	six := func(s *loadbalancer.BGPSession) { s.Addr = netip.MustParseAddr("2001:db8:99::254") }
	for _, tt := range []struct {
		name, bird, at string
		change         func(*loadbalancer.BGPSession)
	}{
		{"IPv4", "neighbor 10.99.0.1 as 64513; direct; " + birdChannels, "10.99.0.1:179", nil},
		{"IPv6", "neighbor 2001:db8:99::1 as 64513; direct; " + birdChannels, "[2001:db8:99::1]:179", six},
		{"password", `neighbor 10.99.0.1 as 64513; direct; password "s3cret"; ` + birdChannels, "10.99.0.1:179", func(s *loadbalancer.BGPSession) { s.Password = "s3cret" }},
		{"password over IPv6", `neighbor 2001:db8:99::1 as 64513; direct; password "s3cret"; ` + birdChannels, "[2001:db8:99::1]:179", func(s *loadbalancer.BGPSession) {
			six(s)
			s.Password = "s3cret"
		}},
		{
			"password and a hop count", `neighbor 10.99.0.1 as 64513; direct; password "s3cret"; ttl security on; ` + birdChannels, "10.99.0.1:179",
			func(s *loadbalancer.BGPSession) { s.Password, s.TTLSecurity = "s3cret", 1 },
		},
		{"a hop count over IPv6", "neighbor 2001:db8:99::1 as 64513; direct; ttl security on; " + birdChannels, "[2001:db8:99::1]:179", func(s *loadbalancer.BGPSession) {
			six(s)
			s.TTLSecurity = 1
		}},
		{
			"over several hops", "neighbor 10.99.0.1 as 64513; multihop; source address 10.99.0.254; " + birdChannels, "10.99.0.1:179",
			func(s *loadbalancer.BGPSession) { s.MultiHop, s.Source = true, netip.MustParseAddr("10.99.0.1") },
		},
		{"within", "neighbor 10.99.0.1 as 64512; direct; " + birdChannels, "10.99.0.1:179", func(s *loadbalancer.BGPSession) { s.MyASN = 64512 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRealRouter(t, "bird", "birdc")
			r.bird(birdCalls(tt.bird))
			s := begin(t, Options{ListenPort: 179})
			s.Apply(planOf(full(), comesIn(tt.change)), ours)
			awaitState(t, s, "r", Established)
			eventually(t, "BIRD has both routes", func() bool {
				got := r.birdc("show", "route", "all", "protocol", "lb")
				return strings.Contains(got, "198.51.100.1/32") && strings.Contains(got, "2001:db8:1::1/128")
			})
			if !listensOn(t, tt.at) || listensOn(t, "0.0.0.0:179") || listensOn(t, "*:179") {
				t.Errorf("we do not listen on %s alone", tt.at)
			}
			s.Apply(loadbalancer.BGPPlan{}, nil)
			eventually(t, "nobody listens", func() bool { return !listensOn(t, ":179") })
			eventually(t, "BIRD knows why", func() bool { return strings.Contains(r.birdc("show", "protocols", "all", "lb"), "Peer de-configured") })
		})
	}
}

// The link-local address of the router is in many networks; its link says which is meant.
func TestBIRDConnectsFromALinkLocalAddress(t *testing.T) {
	r := newRealRouter(t, "bird", "birdc")
	for where, run := range map[string]func(...string){
		"lb0": func(args ...string) {
			if out, err := exec.CommandContext(t.Context(), "ip", args...).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		},
		"r0": func(args ...string) { r.Run("ip", args...) },
	} {
		run("addr", "add", "dev", where, map[string]string{"lb0": "fe80::a1/64", "r0": "fe80::a254/64"}[where], "nodad")
	}
	r.bird(birdCalls("neighbor fe80::a1%r0 as 64513; local fe80::a254; direct; ipv6 { import all; export none; };"))
	s := begin(t, Options{ListenPort: 179})
	s.Apply(planOf(full(), comesIn(func(s *loadbalancer.BGPSession) {
		s.Addr, s.Source = netip.MustParseAddr("fe80::a254%lb0"), netip.MustParseAddr("fe80::a1")
	})), ours)
	st := awaitState(t, s, "r", Established)
	if st.Local != netip.MustParseAddr("fe80::a1%lb0") {
		t.Errorf("local address %s", st.Local)
	}
}

func TestFRRConnectsToUs(t *testing.T) {
	r := newRealRouter(t, "vtysh")
	r.frr(frrLB(64513, " neighbor 10.99.0.1 password s3cret\n", "10.99.0.1", "2001:db8:99::1"))
	s := begin(t, Options{ListenPort: 179})
	four := comesIn(func(s *loadbalancer.BGPSession) { s.Password = "s3cret" })
	six := comesIn(func(s *loadbalancer.BGPSession) {
		s.Peer, s.Addr = "r6", netip.MustParseAddr("2001:db8:99::254")
	})
	s.Apply(planOf(full(), four, six), ours)
	awaitState(t, s, "r", Established)
	awaitState(t, s, "r6", Established)
	eventually(t, "FRR has both paths", func() bool {
		var got frrPath
		r.vtysh("show bgp ipv4 unicast 198.51.100.1/32 json", &got)
		return len(got.Paths) == 2
	})
}

// A changed password begins that session anew, whichever side has it first.
func TestPasswordOfBIRDThatConnects(t *testing.T) {
	r := newRealRouter(t, "bird", "birdc")
	r.bird(birdCalls(`neighbor 10.99.0.1 as 64513; direct; password "right"; ` + birdChannels))
	s := begin(t, Options{ListenPort: 179})
	with := func(password string) loadbalancer.BGPSession {
		return comesIn(func(s *loadbalancer.BGPSession) { s.Password = password })
	}
	s.Apply(planOf(full(), with("wrong")), ours)
	eventually(t, "the router tries", func() bool { return strings.Contains(r.birdc("show", "protocols", "all", "lb"), "Connect") })
	for range 50 { // two seconds and more of attempts, of which none may succeed
		if st := stateOf(s, "r"); st.State != Active {
			t.Fatalf("with a wrong password: %+v", st)
		}
		pause(t)
	}
	s.Apply(planOf(full(), with("right")), ours)
	awaitState(t, s, "r", Established)
	s.Apply(planOf(full(), with("changed")), ours)
	eventually(t, "a changed one ends the session", func() bool { return stateOf(s, "r").State != Established })
	r.write("bird.conf", birdBase+birdCalls(`neighbor 10.99.0.1 as 64513; direct; password "changed"; `+birdChannels))
	r.birdc("configure")
	awaitState(t, s, "r", Established)
	s.Apply(planOf(full(), with("")), ours)
	eventually(t, "none ends it too", func() bool { return stateOf(s, "r").State != Established })
	r.write("bird.conf", birdBase+birdCalls("neighbor 10.99.0.1 as 64513; direct; "+birdChannels))
	r.birdc("configure")
	awaitState(t, s, "r", Established)
}

func pause(t *testing.T) {
	t.Helper()
	select {
	case <-t.Context().Done():
	case <-time.After(50 * time.Millisecond):
	}
}

// calls connects from the router's place to us, and says how many octets it hears.
func (r *realRouter) calls(from netip.Addr, to string, ttl int) (heard int, err error) {
	d := net.Dialer{Timeout: 2 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	d.Control = func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) {
			if ttl > 0 {
				failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, ttl)
			}
		})
		return errors.Join(err, failed)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The thread goes back: the router's place ends with the thread that made it, which may be this.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		var home, place *os.File
		if home, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return
		}
		defer home.Close()
		if place, err = os.Open(r.Path()); err != nil {
			return
		}
		defer place.Close()
		if err = unix.Setns(int(place.Fd()), unix.CLONE_NEWNET); err != nil {
			return
		}
		defer func() { err = errors.Join(err, unix.Setns(int(home.Fd()), unix.CLONE_NEWNET)) }()
		var c net.Conn
		if c, err = d.DialContext(r.t.Context(), "tcp", net.JoinHostPort(to, "179")); err != nil {
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		var buf [1]byte
		heard, err = io.ReadFull(c, buf[:])
	}()
	<-done
	return heard, err
}

// unanswered says whether the kernel dropped even the first packet of a connection.
func unanswered(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial" && op.Timeout()
}

// Other hosts of the peer's own network are strangers, and so is the peer itself without
// the password, or from too far away.
func TestStrangersAtTheDoor(t *testing.T) {
	r := newRealRouter(t, "bird", "birdc")
	r.Run("ip", "addr", "add", "10.99.0.253/24", "dev", "r0")
	s := begin(t, Options{ListenPort: 179})
	open, far := comesIn(nil), comesIn(func(s *loadbalancer.BGPSession) {
		s.Peer, s.Addr, s.TTLSecurity = "far", netip.MustParseAddr("2001:db8:99::254"), 1
	})
	s.Apply(planOf(full(), open, far), ours)
	eventually(t, "we listen", func() bool { return listensOn(t, "10.99.0.1:179") && listensOn(t, "[2001:db8:99::1]:179") })
	call := func(from, to string, ttl int) (int, error) { return r.calls(netip.MustParseAddr(from), to, ttl) }
	// The peer is greeted, a stranger is not.
	if n, err := call("10.99.0.254", "10.99.0.1", 0); n != 1 {
		t.Errorf("the peer was not greeted: %v", err)
	}
	if n, err := call("10.99.0.253", "10.99.0.1", 0); n != 0 || !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
		t.Errorf("a stranger heard %d octets, %v", n, err)
	}
	if n := s.Strangers(); n != 1 {
		t.Errorf("%d strangers were counted", n)
	}
	if n, err := call("2001:db8:99::254", "2001:db8:99::1", 255); n != 1 {
		t.Errorf("the peer with TTL 255 was not greeted: %v", err)
	}
	if n, err := call("2001:db8:99::254", "2001:db8:99::1", 254); n != 0 || !unanswered(err) {
		t.Errorf("the peer from too far away heard %d octets, %v", n, err)
	}
	s.Apply(planOf(full(), comesIn(func(s *loadbalancer.BGPSession) { s.Password = "s3cret" })), ours)
	eventually(t, "who has no password is not heard", func() bool {
		_, err := call("10.99.0.254", "10.99.0.1", 0)
		return unanswered(err)
	})
}

func TestBIRDThatConnectsKeepsRoutesOverARestart(t *testing.T) {
	r := newRealRouter(t, "bird", "birdc")
	r.bird(birdCalls("neighbor 10.99.0.1 as 64513; direct; graceful restart on; " + birdChannels))
	restartKeeps(t, r, comesIn(func(s *loadbalancer.BGPSession) { s.GracefulRestart = true }), append(full(), many(300)...))
}

// A daemon of the node has the port: sessions by other addresses, and those that we begin,
// are not touched, and the daemon neither.
func TestPortOfAnotherDaemon(t *testing.T) {
	r := newRealRouter(t, "bird", "birdc")
	r.bird(birdCalls("neighbor 10.99.0.1 as 64513; direct; "+birdChannels) +
		strings.Replace(birdCalls("neighbor 2001:db8:99::1 as 64513; direct; "+birdChannels), "protocol bgp lb", "protocol bgp lb6", 1))
	conf := r.write("own.conf", "router id 10.99.0.1;\nprotocol device { scan time 60; }\nprotocol bgp own { local 10.99.0.1 as 64513; neighbor 10.99.0.77 as 64512; strict bind on; ipv4 { import none; export none; }; }\n")
	pid := r.dir + "/own.pid"
	if out, err := exec.CommandContext(t.Context(), "bird", "-c", conf, "-s", r.dir+"/own.ctl", "-P", pid).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r.stopAtEnd(pid)
	eventually(t, "the node's own BIRD listens", func() bool { return listensOn(t, "10.99.0.1:179") })
	s := begin(t, Options{ListenPort: 179})
	six := comesIn(func(s *loadbalancer.BGPSession) {
		s.Peer, s.Addr = "six", netip.MustParseAddr("2001:db8:99::254")
	})
	s.Apply(planOf(full(), comesIn(nil), six), ours)
	awaitState(t, s, "six", Established)
	st := stateOf(s, "r")
	if want := fmt.Sprintf("TCP port %d of 10.99.0.1 is taken by another program of this node", 179); st.State != Active || st.Reason != reason.CannotListen || !strings.Contains(st.Message, want) {
		t.Errorf("%+v", st)
	}
	r.kill(pid)
	awaitState(t, s, "r", Established)
	if st := stateOf(s, "six"); st.Flaps != 0 {
		t.Errorf("the other session fell: %+v", st)
	}
}
