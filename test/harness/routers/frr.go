// SPDX-License-Identifier: Apache-2.0

package routers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/plane"
)

// frrDaemons is where Debian's package has them.
const frrDaemons = "/usr/lib/frr"

// startTimeout bounds the start of a router.
const startTimeout = 30 * time.Second

// frrScript starts FRR's daemons in the directory $1 and waits. They configure nothing by
// themselves: vtysh does, when they are up. BFD's daemon and zebra change to the user frr,
// which must be able to write there.
const frrScript = `d=$1
common="-F datacenter --vty_socket $d -z $d/zserv.api -f /dev/null -A 127.0.0.1 -P 0 --log stdout"
rm -f $d/*.api $d/*.vty $d/*.sock
$2/zebra $common -s 8388608 -i $d/zebra.pid &
i=0; while ! [ -S $d/zserv.api ] && [ $i -lt 500 ]; do i=$((i+1)); sleep 0.02; done
$2/bfdd $common --bfdctl $d/bfdd.sock -i $d/bfdd.pid &
$2/bgpd -S $common -i $d/bgpd.pid &
wait
`

// FRR is a running FRR.
type FRR struct {
	place Place
	dir   string
	log   string
	conf  Config
	proc  *plane.Process
}

// NewFRR prepares one; dir gets its log.
func NewFRR(place Place, dir, name string, conf Config) (*FRR, error) {
	if err := errors.Join(need(filepath.Join(frrDaemons, "bgpd"), "frr"), need("vtysh", "frr"), need("unshare", "util-linux")); err != nil {
		return nil, err
	}
	// Below a test's directory the user frr could not reach it.
	run, err := os.MkdirTemp("", "fairlead-frr-")
	if err != nil {
		return nil, fmt.Errorf("prepare FRR: %w", err)
	}
	f := &FRR{place: place, dir: run, log: filepath.Join(dir, name+".log"), conf: conf}
	u, err := user.Lookup("frr")
	if err != nil {
		return f, fmt.Errorf("prepare FRR: %w", err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return f, fmt.Errorf("prepare FRR: %w", err)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return f, fmt.Errorf("prepare FRR: %w", err)
	}
	return f, errors.Join(os.Chown(run, uid, gid), os.WriteFile(filepath.Join(run, "vtysh.conf"), nil, 0o644)) //nolint:gosec // empty
}

// Start starts FRR and configures it.
func (f *FRR) Start(ctx context.Context) error {
	var err error
	// PID 1 of a namespace of theirs takes all daemons with it, and it dies with us, which
	// daemons that change their user do not.
	f.proc, err = plane.StartProcess(ctx, plane.Program{
		Name: "FRR", LogFile: f.log, Path: "unshare", Enter: f.place.Enter,
		Args: []string{"--pid", "--fork", "--kill-child", "sh", "-c", frrScript, "sh", f.dir, frrDaemons},
	})
	if err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	_, err = harness.Eventually(ctx, startTimeout, func(ctx context.Context) error {
		if err := f.proc.Err(); err != nil {
			return err //nolint:wrapcheck // says what it is
		}
		for _, d := range []string{"zebra", "bfdd", "bgpd"} {
			if _, err := f.vtysh(ctx, "-d", d, "-c", "show version"); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("start FRR: %w", err)
	}
	return f.Configure(ctx, f.conf.FRR())
}

// Configure reads lines of configuration, in addition to what there is.
func (f *FRR) Configure(ctx context.Context, text string) error {
	path := filepath.Join(f.dir, "frr.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return fmt.Errorf("configure FRR: %w", err)
	}
	out, err := f.vtysh(ctx, "-f", path)
	if err == nil && strings.Contains(out, "%") {
		err = fmt.Errorf("configure FRR: %s", out)
	}
	return err
}

// Stop ends FRR at once. What it put into the kernel is removed.
func (f *FRR) Stop() error {
	if f.proc == nil {
		return nil
	}
	return errors.Join(f.proc.Kill(), flush(f.place))
}

// Close stops it and removes its directory.
func (f *FRR) Close() error { return errors.Join(f.Stop(), os.RemoveAll(f.dir)) }

// Show runs one command of vtysh.
func (f *FRR) Show(ctx context.Context, command string) (string, error) {
	return f.vtysh(ctx, "-c", command)
}

func (f *FRR) vtysh(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "vtysh", append([]string{"--vty_socket", f.dir, "--config_dir", f.dir}, args...)...) //nolint:gosec // a test's own commands
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("vtysh %s: %w: %s%s", strings.Join(args, " "), err, out.String(), errOut.String())
	}
	return out.String(), nil
}

// Sessions of all neighbours.
func (f *FRR) Sessions(ctx context.Context) ([]Session, error) {
	text, err := f.Show(ctx, "show bgp neighbors json")
	if err != nil {
		return nil, err
	}
	return FRRSessions(text)
}

// Paths to a prefix.
func (f *FRR) Paths(ctx context.Context, prefix netip.Prefix) ([]Path, error) {
	text, err := f.Show(ctx, FRRShow(prefix)+" json")
	if err != nil {
		return nil, err
	}
	return FRRPaths(text)
}

// Words about a prefix.
func (f *FRR) Words(ctx context.Context, prefix netip.Prefix) (string, error) {
	return f.Show(ctx, FRRShow(prefix))
}

// FRRShow is the command that shows a prefix.
func FRRShow(prefix netip.Prefix) string {
	family := "ipv4"
	if prefix.Addr().Is6() {
		family = "ipv6"
	}
	return "show bgp " + family + " unicast " + prefix.String()
}

// FRRSessions reads "show bgp neighbors json".
func FRRSessions(text string) ([]Session, error) {
	var doc map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		return nil, fmt.Errorf("read FRR's neighbours: %w", err)
	}
	var out []Session
	for name, raw := range doc {
		if !bytes.HasPrefix(raw, []byte("{")) {
			continue // not a neighbour
		}
		var n struct {
			RemoteAs   uint32 `json:"remoteAs"`
			Address    string `json:"bgpNeighborAddr"`
			Port       int    `json:"portForeign"` // -1 without a connection
			State      string `json:"bgpState"`
			Dropped    int    `json:"connectionsDropped"`
			LastReset  string `json:"lastResetDueTo"`
			LastReason string `json:"lastNotificationReason"`
			RouterID   string `json:"remoteRouterId"`
			Hold       int64  `json:"bgpTimerHoldTimeMsecs"`
			FamilyInfo map[string]struct {
				Accepted int `json:"acceptedPrefixCounter"`
			} `json:"addressFamilyInfo"`
			BFD struct {
				Status string `json:"status"`
			} `json:"peerBfdInfo"`
		}
		if err := json.Unmarshal(raw, &n); err != nil {
			return nil, fmt.Errorf("read FRR's neighbour %s: %w", name, err)
		}
		if n.State == "" {
			continue // nor this
		}
		s := Session{
			Port: max(0, n.Port), ASN: n.RemoteAs, State: n.State, Established: n.State == "Established", Dropped: n.Dropped,
			LastError: strings.TrimSpace(n.LastReset + " " + n.LastReason), BFD: n.BFD.Status,
			Hold: time.Duration(n.Hold) * time.Millisecond,
		}
		if addr, err := netip.ParseAddr(name); err == nil {
			s.Neighbor = addr
		} else {
			s.Name = name
			s.Neighbor, _ = netip.ParseAddr(n.Address) // none while it is not there
		}
		s.RouterID, _ = netip.ParseAddr(n.RouterID)
		for _, family := range n.FamilyInfo {
			s.Prefixes += family.Accepted
		}
		out = append(out, s)
	}
	return out, nil
}

// FRRPaths reads "show bgp ipv4 unicast PREFIX json".
func FRRPaths(text string) ([]Path, error) {
	var doc struct {
		Paths []struct {
			ASPath struct {
				String string `json:"string"`
			} `json:"aspath"`
			MED       uint32   `json:"metric"`
			LocalPref *uint32  `json:"locPrf"`
			Stale     bool     `json:"stale"`
			Community frrWords `json:"community"`
			Large     frrWords `json:"largeCommunity"`
			Extended  frrWords `json:"extendedCommunity"`
			NextHops  []frrHop `json:"nexthops"`
			Peer      struct {
				ID netip.Addr `json:"peerId"`
			} `json:"peer"`
		} `json:"paths"`
	}
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		return nil, fmt.Errorf("read FRR's paths: %w", err)
	}
	var out []Path
	for i := range doc.Paths {
		p := &doc.Paths[i]
		path := Path{From: p.Peer.ID, MED: p.MED, LocalPref: 100, Stale: p.Stale}
		if p.LocalPref != nil {
			path.LocalPref = *p.LocalPref
		}
		for word := range strings.FieldsSeq(p.ASPath.String) {
			if n, err := strconv.ParseUint(word, 10, 32); err == nil {
				path.ASPath = append(path.ASPath, uint32(n))
			}
		}
		for _, h := range p.NextHops {
			if h.Scope != "link-local" {
				path.NextHop = h.IP
			}
		}
		path.Communities = sorted(append(append(p.Community.words(), p.Large.words()...), p.Extended.words()...))
		out = append(out, path)
	}
	return out, nil
}

type frrHop struct {
	IP    netip.Addr `json:"ip"`
	Scope string     `json:"scope"`
}

type frrWords struct {
	String string `json:"string"`
}

// words are the communities in the form that [Path] has.
func (w frrWords) words() []string {
	var out []string
	for f := range strings.FieldsSeq(w.String) {
		switch {
		case f == "graceful-shutdown" || f == "gracefulShutdown":
			out = append(out, "65535:0")
		case f == "no-export" || f == "noExport":
			out = append(out, "65535:65281")
		case strings.HasPrefix(f, "RT:"):
			out = append(out, "rt:"+f[3:])
		case strings.HasPrefix(f, "SoO:"):
			out = append(out, "ro:"+f[4:])
		case strings.HasPrefix(f, "LB:"): // LB:64512:375000 (3.000 Mbps)
			out = append(out, "lb:"+f[strings.LastIndexByte(f, ':')+1:])
		case strings.HasPrefix(f, "(") || strings.HasSuffix(f, ")"):
		default:
			out = append(out, f)
		}
	}
	return out
}

// FRR writes the configuration in FRR's words.
func (c *Config) FRR() string {
	var b strings.Builder
	if c.BFD.Interval > 0 {
		ms := c.BFD.Interval.Milliseconds()
		fmt.Fprintf(&b, "bfd\n profile x\n  receive-interval %d\n  transmit-interval %d\n  detect-multiplier %d\n exit\nexit\n", ms, ms, c.BFD.Multiplier)
	}
	fmt.Fprintf(&b, "router bgp %d\n bgp router-id %s\n no bgp ebgp-requires-policy\n bgp bestpath as-path multipath-relax\n no bgp network import-check\n", c.ASN, c.RouterID)
	for i := range c.Neighbors {
		n := &c.Neighbors[i]
		for l := range strings.SplitSeq(lines(
			fmt.Sprintf("remote-as %d", n.ASN), "timers connect 1",
			fmt.Sprintf("timers %d %d", int(n.hold().Seconds())/3, int(n.hold().Seconds())),
			when(n.Password != "", "password "+n.Password), when(n.BFD, "bfd"), when(n.BFD && c.BFD.Interval > 0, "bfd profile x"),
			when(n.GracefulRestart, "graceful-restart"), when(n.TTLSecurity, "ttl-security hops 1"),
			when(n.MultiHop, "ebgp-multihop"), when(n.Passive, "passive"), when(n.ExtendedNextHop, "capability extended-nexthop")), "\n") {
			if l != "" {
				fmt.Fprintf(&b, " neighbor %s %s\n", n.Addr, l)
			}
		}
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		fmt.Fprintf(&b, " address-family %s unicast\n  maximum-paths %d\n  maximum-paths ibgp %d\n", family, max(1, c.MaxPaths), max(1, c.MaxPaths))
		for i := range c.Neighbors {
			fmt.Fprintf(&b, "  neighbor %s activate\n", c.Neighbors[i].Addr)
		}
		for _, p := range c.Origin {
			if p.Addr().Is4() == (family == "ipv4") {
				fmt.Fprintf(&b, "  network %s\n", p)
			}
		}
		b.WriteString(" exit-address-family\n")
	}
	b.WriteString("exit\n")
	return b.String()
}
