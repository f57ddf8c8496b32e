// SPDX-License-Identifier: Apache-2.0

package routers

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/plane"
)

// captured is BGP and BFD over one hop and over several.
const captured = "tcp port 179 or udp port 3784 or udp port 4784"

// Capture is a tcpdump of BGP and BFD, in words.
type Capture struct {
	file string
	proc *plane.Process
}

// StartCapture begins to listen on a link; file gets the words.
func StartCapture(ctx context.Context, place Place, link, file string) (*Capture, error) {
	if err := need("tcpdump", "tcpdump"); err != nil {
		return nil, err
	}
	c := &Capture{file: file}
	var err error
	c.proc, err = plane.StartProcess(ctx, plane.Program{
		Name: "tcpdump", LogFile: file, Path: "tcpdump", Enter: place.Enter,
		Args: []string{"-Z", "root", "--immediate-mode", "-l", "-v", "-n", "-s", "0", "-i", link, captured},
	})
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it is
	}
	_, err = harness.Eventually(ctx, startTimeout, func(context.Context) error {
		b, err := os.ReadFile(file) //nolint:gosec // the capture's own file
		if err == nil && !strings.Contains(string(b), "listening on") {
			err = fmt.Errorf("tcpdump does not listen: %s", b)
		}
		return err
	})
	return c, err
}

// Stop ends it.
func (c *Capture) Stop() error { return c.proc.Stop() } //nolint:wrapcheck // says what it is

// Update returns the first UPDATE that holds all words, line by line.
func (c *Capture) Update(words ...string) (string, error) {
	b, err := os.ReadFile(c.file)
	if err != nil {
		return "", fmt.Errorf("read the capture: %w", err)
	}
	return FindUpdate(string(b), words...)
}

// Keepalives returns when a KEEPALIVE was seen from one address to another.
func (c *Capture) Keepalives(from, to netip.Addr) ([]time.Time, error) {
	b, err := os.ReadFile(c.file)
	if err != nil {
		return nil, fmt.Errorf("read the capture: %w", err)
	}
	return findKeepalives(string(b), from, to)
}

// findKeepalives looks through what tcpdump -v printed: the time in the first line of a
// packet, its ends in the second one, the messages in those that follow.
func findKeepalives(text string, from, to netip.Addr) ([]time.Time, error) {
	var out []time.Time
	var at string
	between := false
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		switch {
		case len(f) == 0:
		case line[0] != ' ' && line[0] != '\t':
			at, between = f[0], false
		case len(f) > 2 && f[1] == ">":
			between = strings.HasPrefix(f[0], from.String()+".") && strings.HasPrefix(f[2], to.String()+".")
		case between && strings.Contains(line, "Keepalive Message (4)"):
			t, err := time.Parse("15:04:05.000000", at)
			if err != nil {
				return nil, fmt.Errorf("read the capture: %w", err)
			}
			out = append(out, t)
		}
	}
	return out, nil
}

// Packets counts those that were seen from one address to a port of another.
func (c *Capture) Packets(from, to netip.Addr, port uint16) (int, error) {
	b, err := os.ReadFile(c.file)
	if err != nil {
		return 0, fmt.Errorf("read the capture: %w", err)
	}
	return countPackets(string(b), from, to, port), nil
}

// countPackets looks through what tcpdump -v printed: the ends of a packet are in the second
// line of it.
func countPackets(text string, from, to netip.Addr, port uint16) int {
	n, at := 0, fmt.Sprintf("%s.%d:", to, port)
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 2 && f[1] == ">" && strings.HasPrefix(f[0], from.String()+".") && f[2] == at {
			n++
		}
	}
	return n
}

// FindUpdate looks through what tcpdump -v printed for an UPDATE that holds all words.
func FindUpdate(text string, words ...string) (string, error) {
	var update []string
	found := func() bool {
		all := strings.Join(update, "\n")
		for _, w := range words {
			if !strings.Contains(all, w) {
				return false
			}
		}
		return len(update) > 0
	}
	in := false
	for line := range strings.Lines(text) {
		begins := strings.Contains(line, "Message (") // "Update Message (2), length: 51"
		if begins || line[0] != ' ' && line[0] != '\t' {
			if found() {
				return strings.Join(update, "\n"), nil
			}
			update, in = nil, strings.Contains(line, "Update Message (2)")
		}
		if in {
			update = append(update, strings.TrimRight(line, "\n"))
		}
	}
	if found() {
		return strings.Join(update, "\n"), nil
	}
	return "", fmt.Errorf("no UPDATE with %q was captured", words)
}
