// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// arpReply matches one line of arping, as "Unicast reply from 172.20.255.200 [02:42:AC:14:00:03]  1.139ms".
var arpReply = regexp.MustCompile(`reply from (\S+) \[([0-9A-Fa-f:]{17})\]`)

// ARP asks for an address twice by broadcast from a client and returns the distinct MAC
// addresses that answered, in lower case and sorted: none when nobody did. Both requests
// are broadcast (-b) because arping would else ask only the first one to answer again.
func (l *Lab) ARP(ctx context.Context, client, address string) ([]string, string, error) {
	res, err := l.Exec(ctx, client, "arping", "-b", "-I", "eth0", "-c", "2", "-w", "2", address)
	failed := &CommandError{}
	if err != nil && (!errors.As(err, &failed) || failed.Code != 1) {
		return nil, res.Stdout, err
	}
	var macs []string
	for _, m := range arpReply.FindAllStringSubmatch(res.Stdout, -1) {
		if mac := strings.ToLower(m[2]); m[1] == address && !slices.Contains(macs, mac) {
			macs = append(macs, mac)
		}
	}
	slices.Sort(macs)
	return macs, res.Stdout, nil
}

// ndiscReply matches the link-layer address in the output of ndisc6, as
// "Target link-layer address: 02:42:AC:14:00:03".
var ndiscReply = regexp.MustCompile(`Target link-layer address: ([0-9A-Fa-f:]{17})`)

// NDP solicits an IPv6 address twice by multicast from a client and returns the distinct
// MAC addresses that were advertised, in lower case and sorted: none when nobody answered.
func (l *Lab) NDP(ctx context.Context, client, address string) ([]string, string, error) {
	var macs []string
	var all strings.Builder
	for range 2 {
		// -m: wait for every advertisement; -r 1: one solicitation, for -w milliseconds.
		res, err := l.Exec(ctx, client, "ndisc6", "-m", "-r", "1", "-w", "1000", address, "eth0")
		all.WriteString(res.Stdout)
		failed := &CommandError{}
		// 2 is "no response" (ndisc6(8)).
		if err != nil && (!errors.As(err, &failed) || failed.Code != 2) {
			return nil, all.String(), err
		}
		for _, m := range ndiscReply.FindAllStringSubmatch(res.Stdout, -1) {
			if mac := strings.ToLower(m[1]); !slices.Contains(macs, mac) {
				macs = append(macs, mac)
			}
		}
	}
	slices.Sort(macs)
	return macs, all.String(), nil
}

// Answers is [Lab.ARP] for an IPv4 address and [Lab.NDP] for an IPv6 one.
func (l *Lab) Answers(ctx context.Context, client, address string) ([]string, string, error) {
	if strings.Contains(address, ":") {
		return l.NDP(ctx, client, address)
	}
	return l.ARP(ctx, client, address)
}

// OneMAC returns the only MAC that answers for an address of either family, or why there
// is not exactly one.
func (l *Lab) OneMAC(ctx context.Context, client, address string) (string, error) {
	macs, out, err := l.Answers(ctx, client, address)
	if err != nil {
		return "", err
	}
	if len(macs) != 1 {
		return "", fmt.Errorf("%d MACs answer for %s: %v\n%s", len(macs), address, macs, out)
	}
	return macs[0], nil
}

// Silent returns nil when nobody answers an ARP request or a neighbour solicitation for
// an address.
func (l *Lab) Silent(ctx context.Context, client, address string) error {
	macs, out, err := l.Answers(ctx, client, address)
	if err != nil {
		return err
	}
	if len(macs) != 0 {
		return fmt.Errorf("%s still answers for %s\n%s", strings.Join(macs, ", "), address, out)
	}
	return nil
}

// URL is the root of an HTTP server at an address of either family, port 80.
func URL(address string) string {
	if strings.Contains(address, ":") {
		address = "[" + address + "]"
	}
	return "http://" + address + "/"
}

// MAC returns the hardware address of a host's eth0.
func (l *Lab) MAC(ctx context.Context, host string) (string, error) {
	res, err := l.Exec(ctx, host, "cat", "/sys/class/net/eth0/address")
	if err != nil {
		// The node's /sys may show another network namespace; the link itself does not.
		return l.macFromLink(ctx, host)
	}
	return strings.ToLower(strings.TrimSpace(res.Stdout)), nil
}

// linkEther matches the hardware address in the output of ip link.
var linkEther = regexp.MustCompile(`link/ether ([0-9a-f:]{17})`)

func (l *Lab) macFromLink(ctx context.Context, host string) (string, error) {
	res, err := l.Exec(ctx, host, "ip", "link", "show", "dev", "eth0")
	if err != nil {
		return "", err
	}
	m := linkEther.FindStringSubmatch(res.Stdout)
	if m == nil {
		return "", fmt.Errorf("no hardware address in %q", res.Stdout)
	}
	return m[1], nil
}

// Fetch fetches a URL once from a host and returns the body; each step may take two seconds.
func (l *Lab) Fetch(ctx context.Context, host, url string) (string, error) {
	res, err := l.Exec(ctx, host, "curl", "-sS", "--connect-timeout", "2", "--max-time", "4", url)
	return res.Stdout, err
}

// Field returns the first value of a "Name: value" line in a whoami answer.
func Field(body, name string) string {
	for line := range strings.Lines(body) {
		if v, ok := strings.CutPrefix(line, name+": "); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// Distribution is how often each Hostname answered.
type Distribution map[string]int

// Total counts the answers.
func (d Distribution) Total() int {
	n := 0
	for _, c := range d {
		n += c
	}
	return n
}

// String shows the counts by host name.
func (d Distribution) String() string {
	names := make([]string, 0, len(d))
	for n := range d {
		names = append(names, n)
	}
	slices.Sort(names)
	parts := make([]string, 0, len(d))
	for _, n := range names {
		parts = append(parts, n+" "+strconv.Itoa(d[n]))
	}
	return strings.Join(parts, ", ")
}

// Requests sends n requests one after another, each on a new connection, and counts the
// host names that answered. A request that fails counts for nobody.
func (l *Lab) Requests(ctx context.Context, client, url string, n int) (Distribution, error) {
	script := fmt.Sprintf("for i in {1..%d}; do curl -s --connect-timeout 1 --max-time 2 %s | grep Hostname; done; true", n, url)
	res, err := l.Exec(ctx, client, "zsh", "-c", script)
	if err != nil {
		return nil, err
	}
	d := Distribution{}
	for line := range strings.Lines(res.Stdout) {
		if name, ok := strings.CutPrefix(line, "Hostname: "); ok {
			d[strings.TrimSpace(name)]++
		}
	}
	return d, nil
}
