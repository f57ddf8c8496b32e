// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package bfd

import (
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

	"github.com/fairlead-lb/fairlead/test/netns"
)

// router is a network namespace with a BFD daemon, 10.9.n.254 and fe80::fe on the link rn,
// whose other end is vn here, with 10.9.n.1 and fe80::1; and 10.8.n.254 behind it.
type router struct {
	*netns.Other
	t    *testing.T
	n    int
	dir  string
	kind daemon
	// second has the router know 10.9.n.2 instead of 10.9.n.1.
	second bool
}

// daemon is how one of the two is run.
type daemon interface {
	// start has it watch our addresses with an interval of ms and options of its own.
	start(r *router, ms int, passive bool)
	// up says whether it holds the session with an address for Up.
	up(r *router, addr netip.Addr) bool
}

// needs fails the test where a program is not installed.
func needs(t *testing.T, program, packages string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Fatalf("%v: install the Debian package %s", err, packages)
	}
}

func newRouter(t *testing.T, n int, kind daemon) *router {
	t.Helper()
	needs(t, "nft", "nftables")
	r := &router{t: t, n: n, kind: kind, dir: filepath.Join(t.TempDir(), "run")}
	// The daemons give up root and write here.
	if err := os.Mkdir(r.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for dir := r.dir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	link, far := fmt.Sprintf("v%d", n), fmt.Sprintf("r%d", n)
	netns.AddVeth(t, link, fmt.Sprintf("10.9.%d.1/24", n), far, "")
	netns.AddAddr(t, link, "fe80::1/64")
	r.Other = netns.NewOther(t)
	r.Take(far)
	r.Run("sh", "-c", strings.NewReplacer("LINK", far, "N", strconv.Itoa(n)).Replace(`set -e
ip link set lo up
ip address add 10.8.N.254/32 dev lo
ip link set LINK up
ip address add 10.9.N.254/24 dev LINK
ip -6 address add fe80::fe/64 dev LINK nodad`))
	netns.AddRouteVia(t, link, fmt.Sprintf("10.8.%d.254/32", n), 0, fmt.Sprintf("10.9.%d.254", n))
	return r
}

func (r *router) addr4() netip.Addr  { return netip.AddrFrom4([4]byte{10, 9, byte(r.n), 254}) }
func (r *router) behind() netip.Addr { return netip.AddrFrom4([4]byte{10, 8, byte(r.n), 254}) }
func (r *router) addr6() netip.Addr {
	return netip.MustParseAddr("fe80::fe").WithZone(fmt.Sprintf("v%d", r.n))
}
func (r *router) ours4() netip.Addr { return netip.AddrFrom4([4]byte{10, 9, byte(r.n), 1}) }
func (r *router) ours6() netip.Addr { return netip.MustParseAddr("fe80::1") }

// cut has packets vanish in both directions, without a word to anybody.
func (r *router) cut() {
	r.t.Helper()
	r.Run("nft", "add table inet cut; add chain inet cut in { type filter hook input priority 0; policy drop; }; add chain inet cut out { type filter hook output priority 0; policy drop; }")
}

func (r *router) mend() {
	r.t.Helper()
	r.Run("nft", "delete table inet cut")
}

func (r *router) write(name, text string) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if r.second {
		text = strings.ReplaceAll(text, "10.9.NUM.1", "10.9.NUM.2")
	}
	if err := os.WriteFile(path, []byte(strings.NewReplacer("LINK", fmt.Sprintf("r%d", r.n), "NUM", strconv.Itoa(r.n)).Replace(text)), 0o644); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// kill ends a daemon without a word, by the file that has its process id.
func (r *router) kill(pidFile string) {
	text, err := os.ReadFile(filepath.Join(r.dir, pidFile))
	if err != nil {
		return // killed before
	}
	if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
		_ = syscall.Kill(pid, syscall.SIGKILL) // may have ended
	}
	_ = os.Remove(filepath.Join(r.dir, pidFile)) // so that it is not killed twice
}

type frr struct{}

func (frr) start(r *router, ms int, passive bool) {
	r.t.Helper()
	const dir = "/usr/lib/frr/"
	needs(r.t, dir+"bfdd", "frr")
	mode := ""
	if passive {
		mode = "\n  passive-mode"
	}
	conf := r.write("frr.conf", fmt.Sprintf(`bfd
 profile x
  receive-interval %d
  transmit-interval %d
  detect-multiplier 3%s
 profile y
  receive-interval %d
  transmit-interval %d
  minimum-ttl 250
 peer 10.9.NUM.1 interface LINK
  profile x
 peer fe80::1 interface LINK
  profile x
 peer 10.9.NUM.1 multihop local-address 10.8.NUM.254
  profile y
`, ms, ms, mode, ms, ms))
	for _, d := range []string{"zebra", "bfdd"} {
		args := []string{"-z", r.dir + "/zserv.api", "--vty_socket", r.dir, "-i", filepath.Join(r.dir, d+".pid"), "-f", conf, "-A", "127.0.0.1", "-P", "0", "-d"}
		if d == "bfdd" {
			args = append(args, "--bfdctl", r.dir+"/bfdd.sock")
		}
		r.Run(dir+d, args...)
		r.t.Cleanup(func() { r.kill(d + ".pid") })
	}
}

// frrPeer is what FRR tells of a session.
type frrPeer struct {
	Peer             string `json:"peer"`
	Multihop         bool   `json:"multihop"`
	Status           string `json:"status"`
	Diagnostic       string `json:"diagnostic"`
	RemoteDiagnostic string `json:"remote-diagnostic"`
	RemoteReceive    int    `json:"remote-receive-interval"`
	RemoteTransmit   int    `json:"remote-transmit-interval"`
	RemoteMultiplier int    `json:"remote-detect-multiplier"`
}

func (frr) peer(r *router, addr netip.Addr, multihop bool) frrPeer {
	r.t.Helper()
	out, err := r.Try("vtysh", "--vty_socket", r.dir, "-c", "show bfd peers json")
	if err != nil {
		return frrPeer{} // it starts
	}
	var list []frrPeer
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		r.t.Fatalf("%v: %s", err, out)
	}
	for _, p := range list {
		if p.Peer == addr.String() && p.Multihop == multihop {
			return p
		}
	}
	return frrPeer{}
}

func (f frr) up(r *router, addr netip.Addr) bool { return f.peer(r, addr, false).Status == "up" }

type bird struct{}

func (bird) conf(r *router, ms int, passive bool) string {
	word := "no"
	if passive {
		word = "yes"
	}
	return r.write("bird.conf", strings.NewReplacer("MS", strconv.Itoa(ms), "PASSIVE", word).Replace(`router id 10.9.NUM.254;
protocol device { scan time 60; }
protocol bfd b1 {
  interface "LINK" { interval MS ms; multiplier 3; passive PASSIVE; };
  multihop { interval MS ms; multiplier 3; passive PASSIVE; };
  neighbor 10.9.NUM.1 dev "LINK";
  neighbor fe80::1 dev "LINK";
  neighbor 10.9.NUM.1 local 10.8.NUM.254 multihop;
}
`))
}

func (b bird) start(r *router, ms int, passive bool) {
	r.t.Helper()
	needs(r.t, "bird", "bird2")
	r.Run("bird", "-c", b.conf(r, ms, passive), "-s", r.dir+"/bird.ctl", "-P", r.dir+"/bird.pid")
	r.t.Cleanup(func() { r.kill("bird.pid") })
}

// session is what BIRD tells of one: state, interval and timeout in seconds.
func (bird) session(r *router, addr netip.Addr, link string) (state, interval, timeout string) {
	r.t.Helper()
	for line := range strings.Lines(r.Run("birdc", "-s", r.dir+"/bird.ctl", "show bfd sessions")) {
		if f := strings.Fields(line); len(f) == 6 && f[0] == addr.String() && f[1] == link {
			return f[2], f[4], f[5]
		}
	}
	return "", "", ""
}

func (b bird) up(r *router, addr netip.Addr) bool {
	state, _, _ := b.session(r, addr, fmt.Sprintf("r%d", r.n))
	return state == "Up"
}

func daemons() map[string]daemon { return map[string]daemon{"FRR": frr{}, "BIRD": bird{}} }

// wholly says that tests are to take all the time that they can use, as the soak has it.
func wholly() bool { return os.Getenv("FAIRLEAD_BGP") == "full" }

// daemonsOr is the named one of [daemons] for a test that takes long, where time is short.
func daemonsOr(name string) map[string]daemon {
	all := daemons()
	if !wholly() {
		all = map[string]daemon{name: all[name]}
	}
	return all
}

// Up, silence and back, over IPv4, link-local IPv6 and several hops at once.
func TestRouters(t *testing.T) {
	for name, kind := range daemonsOr("FRR") {
		t.Run(name, func(t *testing.T) {
			r := newRouter(t, 1, kind)
			kind.start(r, 300, false)
			d, _ := start(t)
			d.Watch("four", r.addr4(), netip.Addr{}, single(300*time.Millisecond))
			d.Watch("six", r.addr6(), netip.Addr{}, single(300*time.Millisecond))
			hops := single(300 * time.Millisecond)
			hops.MinTTL = 64 // BIRD's, over several hops
			d.Watch("hops", r.behind(), r.ours4(), hops)
			all := func(want string) func() bool {
				return func() bool {
					return isState(d, "four", want)() && isState(d, "six", want)() && isState(d, "hops", want)()
				}
			}
			eventually(t, "all up", d, all("Up"))
			eventually(t, "up as the router sees it", d, func() bool { return kind.up(r, r.ours4()) && kind.up(r, r.ours6()) })

			r.cut()
			began := time.Now()
			eventually(t, "all down", d, all("Down"))
			t.Logf("%s: down %v after the cut, detection time 900 ms", name, time.Since(began))
			r.mend()
			eventually(t, "all up again", d, all("Up"))
			for key, s := range d.States() {
				if s.Falls != 1 || s.Ups != 2 || s.Why != "the peer was not heard for 900ms" || s.Dropped != (Drops{}) {
					t.Errorf("%s: %+v", key, s)
				}
			}
		})
	}
}
