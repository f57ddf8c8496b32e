// SPDX-License-Identifier: Apache-2.0

package routers

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/plane"
)

// firstPort of those that BIRD connects to of neighbours that it has several sessions with.
const firstPort = 20_000

// BIRD is a running BIRD 2.
type BIRD struct {
	place   Place
	dir     string
	name    string
	control string
	conf    Config
	proc    *plane.Process
}

// NewBIRD prepares one; dir gets its files.
func NewBIRD(place Place, dir, name string, conf Config) (*BIRD, error) {
	if err := errors.Join(need("bird", "bird2"), need("birdc", "bird2")); err != nil {
		return nil, err
	}
	// The name of a socket has at most 107 bytes, which a test's directory may have.
	run, err := os.MkdirTemp("", "fairlead-bird-")
	if err != nil {
		return nil, fmt.Errorf("prepare BIRD: %w", err)
	}
	return &BIRD{place: place, dir: dir, name: name, control: filepath.Join(run, "ctl"), conf: conf}, nil
}

func (b *BIRD) file(end string) string { return filepath.Join(b.dir, b.name+end) }

// Start starts BIRD.
func (b *BIRD) Start(ctx context.Context) error {
	if err := os.WriteFile(b.file(".conf"), []byte(b.conf.BIRD()), 0o600); err != nil {
		return fmt.Errorf("configure BIRD: %w", err)
	}
	var err error
	b.proc, err = plane.StartProcess(ctx, plane.Program{
		Name: "BIRD", LogFile: b.file(".log"), Path: "bird", Enter: b.place.Enter,
		Args: []string{"-f", "-c", b.file(".conf"), "-s", b.control, "-P", b.file(".pid")},
	})
	if err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	_, err = harness.Eventually(ctx, startTimeout, func(ctx context.Context) error {
		if err := b.proc.Err(); err != nil {
			return err //nolint:wrapcheck // says what it is
		}
		_, err := b.Show(ctx, "show status")
		return err
	})
	if err != nil {
		return fmt.Errorf("start BIRD: %w", err)
	}
	return nil
}

// Configure changes what differs and leaves other sessions alone.
func (b *BIRD) Configure(ctx context.Context, conf Config) error {
	b.conf = conf
	if err := os.WriteFile(b.file(".conf"), []byte(conf.BIRD()), 0o600); err != nil {
		return fmt.Errorf("configure BIRD: %w", err)
	}
	_, err := b.Show(ctx, "configure")
	return err
}

// Config that it has.
func (b *BIRD) Config() Config { return b.conf }

// Stop ends BIRD at once. What it put into the kernel is removed.
func (b *BIRD) Stop() error {
	if b.proc == nil {
		return nil
	}
	return errors.Join(b.proc.Kill(), flush(b.place))
}

// Close stops it and removes its directory.
func (b *BIRD) Close() error { return errors.Join(b.Stop(), os.RemoveAll(filepath.Dir(b.control))) }

// Show runs one command of birdc.
func (b *BIRD) Show(ctx context.Context, command string) (string, error) {
	cmd := exec.CommandContext(ctx, "birdc", append([]string{"-s", b.control}, strings.Fields(command)...)...) //nolint:gosec // a test's own commands
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("birdc %s: %w: %s", command, err, out.String())
	}
	return out.String(), nil
}

// Sessions of all neighbours.
func (b *BIRD) Sessions(ctx context.Context) ([]Session, error) {
	text, err := b.Show(ctx, "show protocols all")
	if err != nil {
		return nil, err
	}
	bfd, err := b.Show(ctx, "show bfd sessions")
	if err != nil {
		bfd = "" // BIRD fails if it has no BFD
	}
	return birdSessions(text, bfd), nil
}

// BFD sessions that there are, none where the router has no BFD.
func (b *BIRD) BFD(ctx context.Context) ([]BFDSession, error) {
	text, err := b.Show(ctx, "show bfd sessions")
	if err != nil {
		return nil, err
	}
	return birdBFD(text), nil
}

// birdBFD reads "show bfd sessions": address, link, state, since, interval and timeout.
func birdBFD(text string) []BFDSession {
	const columns = 6
	var out []BFDSession
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != columns {
			continue
		}
		addr, err := netip.ParseAddr(f[0])
		if err != nil {
			continue // the heading
		}
		out = append(out, BFDSession{Neighbor: addr, MultiHop: f[1] == "---", Up: f[2] == "Up", Interval: seconds(f[4]), Timeout: seconds(f[5])})
	}
	return out
}

// seconds reads "0.300".
func seconds(text string) time.Duration {
	d, err := time.ParseDuration(text + "s")
	if err != nil {
		return 0
	}
	return d
}

// birdSessions reads "show protocols all" and "show bfd sessions".
func birdSessions(text, bfd string) []Session {
	up := map[string]string{}
	for line := range strings.Lines(bfd) {
		if f := strings.Fields(line); len(f) > 3 {
			up[f[0]] = f[2]
		}
	}
	var out []Session
	in := false
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if line[0] != ' ' {
			if in = len(f) > 1 && f[1] == "BGP"; in {
				out = append(out, Session{Name: f[0]})
			}
			continue
		}
		if !in {
			continue
		}
		s := &out[len(out)-1]
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "BGP state":
			s.State, s.Established = value, value == "Established"
		case "Neighbor address":
			s.Neighbor, _ = netip.ParseAddr(value)
			s.BFD = up[value]
		case "Neighbor ID":
			s.RouterID, _ = netip.ParseAddr(value)
		case "Hold timer": // "82.1/90"
			_, agreed, _ := strings.Cut(value, "/")
			s.Hold = time.Duration(number(agreed)) * time.Second
		case "Neighbor AS":
			s.ASN = number(value)
		case "Last error":
			s.LastError = value
		case "Routes":
			s.Prefixes += int(number(strings.Fields(value)[0]))
		}
	}
	return out
}

func number(text string) uint32 {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}

// Paths to a prefix.
func (b *BIRD) Paths(ctx context.Context, prefix netip.Prefix) ([]Path, error) {
	text, err := b.Words(ctx, prefix)
	if err != nil {
		return nil, err
	}
	return birdPaths(text), nil
}

// Words about a prefix.
func (b *BIRD) Words(ctx context.Context, prefix netip.Prefix) (string, error) {
	return b.Show(ctx, "show route all where net = "+prefix.String())
}

// birdPaths reads "show route all". The neighbour is known by the next hop only, which the
// sessions of tests have in common.
func birdPaths(text string) []Path {
	var out []Path
	for line := range strings.Lines(text) {
		if _, by, ok := strings.Cut(line, " unicast ["); ok {
			name, _, _ := strings.Cut(by, " ")
			out = append(out, Path{Session: name, LocalPref: 100})
			continue
		}
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		name, ok := strings.CutPrefix(key, "BGP.")
		if !ok || len(out) == 0 {
			continue
		}
		p, value := &out[len(out)-1], strings.TrimSpace(value)
		switch name {
		case "as_path":
			for f := range strings.FieldsSeq(value) {
				p.ASPath = append(p.ASPath, number(f))
			}
		case "next_hop":
			for f := range strings.FieldsSeq(value) { // ":: fe80::1" of a neighbour without another address
				if a, err := netip.ParseAddr(f); err == nil && !a.IsUnspecified() && !p.NextHop.IsValid() {
					p.NextHop, p.From = a, a
				}
			}
		case "local_pref":
			p.LocalPref = number(value)
		case "med":
			p.MED = number(value)
		case "community", "large_community", "ext_community":
			p.Communities = sorted(append(p.Communities, birdCommunities(value)...))
		}
	}
	return out
}

// birdCommunities reads "(65000,1) (65000, 1, 2) (rt, 65000, 1)".
func birdCommunities(text string) []string {
	var out []string
	for part := range strings.SplitSeq(text, "(") {
		part, _, ok := strings.Cut(part, ")")
		if !ok {
			continue
		}
		words := strings.Split(part, ",")
		for i := range words {
			words[i] = strings.TrimSpace(words[i])
		}
		out = append(out, strings.Join(words, ":"))
	}
	return out
}

// BIRD writes the configuration in BIRD's words. Its pauses after errors are short: the
// defaults of a minute and more would be most of a test.
func (c *Config) BIRD() string {
	var b strings.Builder
	fmt.Fprintf(&b, "router id %s;\nprotocol device { scan time 60; }\n", c.RouterID)
	for _, family := range []string{"ipv4", "ipv6"} {
		fmt.Fprintf(&b, "protocol kernel { %s { import none; export where source = RTS_BGP; }; merge paths yes limit %d; scan time 600; }\n", family, max(1, c.MaxPaths))
		for _, p := range c.Origin {
			if p.Addr().Is4() == (family == "ipv4") {
				fmt.Fprintf(&b, "protocol static { %s; route %s blackhole; }\n", family, p)
			}
		}
	}
	if c.BFD.Interval > 0 {
		options := fmt.Sprintf("{ interval %d ms; multiplier %d; }", c.BFD.Interval.Milliseconds(), c.BFD.Multiplier)
		fmt.Fprintf(&b, "protocol bfd { interface \"*\" %[1]s; multihop %[1]s; }\n", options)
	}
	multiHop := false
	for i := range c.Neighbors {
		n := &c.Neighbors[i]
		multiHop = multiHop || n.MultiHop
		b.WriteString(n.bird(c.ASN, i+1))
	}
	b.WriteString(c.Lines)
	if multiHop {
		// Next hops of such sessions are looked up among BIRD's own routes.
		b.WriteString("protocol direct { ipv4; ipv6; }\n")
	}
	return b.String()
}

// bird is the i-th neighbour in BIRD's words.
func (n *Neighbor) bird(asn uint32, i int) string {
	local, port := fmt.Sprintf("as %d", cmp.Or(n.LocalASN, asn)), ""
	if n.Port > 0 {
		local = fmt.Sprintf("port %d ", n.Port) + local
	}
	if n.Local.IsValid() {
		// Sessions of one neighbour differ in their own address, which BIRD must be strict about,
		// and it has one session at a time with one port of the neighbour: that to which it
		// would connect, where nobody listens.
		local, port = n.Local.String()+" "+local, fmt.Sprintf("port %d ", firstPort+i)
	}
	if n.Connects {
		port = ""
	}
	return fmt.Sprintf("protocol bgp %s {\n", cmp.Or(n.Name, fmt.Sprintf("n%d", i))) + lines(
		fmt.Sprintf("local %s;\nneighbor %s %sas %d;\nhold time %d;", local, n.Addr, port, n.ASN, int(n.hold().Seconds())),
		"connect delay time 1; connect retry time 1; error wait time 1,2; error forget time 10;", when(n.Local.IsValid(), "strict bind on;"),
		when(!n.MultiHop, "direct;"), when(n.MultiHop, "multihop;"), when(n.Password != "", fmt.Sprintf("password %q;", n.Password)),
		when(n.BFD, "bfd on;"), when(n.GracefulRestart, "graceful restart on;"), when(n.TTLSecurity, "ttl security on;"), when(n.Passive, "passive on;"), n.Lines,
		"ipv4 { import all; export where source = RTS_STATIC; next hop self; extended next hop on; };\nipv6 { import all; export where source = RTS_STATIC; next hop self; };\n}")
}
