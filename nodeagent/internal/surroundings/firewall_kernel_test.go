// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package surroundings_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/surroundings"
	"github.com/fairlead-lb/fairlead/test/netns"
)

func TestMain(m *testing.M) { os.Exit(netns.Main(m)) }

func nft(t *testing.T, script string) {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// What the nft of this machine says of real tables is understood.
func TestFirewalls(t *testing.T) {
	l := surroundings.New(func() ([]string, error) { return []string{"lo", "eth0"}, nil })
	for name, tt := range map[string]struct {
		rules string
		want  reason.Reason
	}{
		"none":            {"", ""},
		"open":            {"table inet filter { chain input { type filter hook input priority 0\n ct state invalid drop\n } \n }", ""},
		"closed":          {"table inet filter { chain input { type filter hook input priority 0; policy drop\n ct state established,related accept\n iif lo accept\n tcp dport { 22, 80 } accept\n } \n }", reason.HostFirewall},
		"for a pool":      {"table ip filter { chain INPUT { type filter hook input priority 0; policy drop\n ip daddr 172.20.255.0/24 accept\n } \n }", ""},
		"by link":         {"table inet filter { chain input { type filter hook input priority 0; policy drop\n iifname vmap { lo : accept, eth0 : accept }\n } \n }", ""},
		"for one address": {"table inet filter { chain c { drop\n }\n chain input { type filter hook input priority 0\n ip daddr 192.0.2.7 drop\n ip saddr 192.0.2.8 drop\n ip daddr 192.0.2.9 jump c\n }\n }", ""},
		"in a chain":      {"table inet f { chain deny { reject with icmpx admin-prohibited\n }\n chain in { type filter hook input priority 0\n ct state new jump deny\n } \n }", reason.HostFirewall},
		"by set":          {"table inet f { set pools { type ipv4_addr; flags interval; elements = { 172.20.255.0/24 }; }\n chain in { type filter hook input priority 0; policy drop\n ip daddr @pools accept\n } \n }", ""},
	} {
		t.Run(name, func(t *testing.T) {
			nft(t, "flush ruleset\n"+tt.rules+"\n")
			r, err := l.Look(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if r.Against != tt.want {
				t.Errorf("against %q (%s), want %q", r.Against, r.Message, tt.want)
			}
		})
	}
	nft(t, "flush ruleset\n")
}
