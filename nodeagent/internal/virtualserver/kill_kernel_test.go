// SPDX-License-Identifier: Apache-2.0

//go:build kernel && ipvs

package virtualserver_test

import (
	"context"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/virtualserver"
	"github.com/fairlead-lb/fairlead/test/netns"
)

// victim makes a copy of this test binary be the agent that is killed.
const victim = "FAIRLEAD_TEST_VICTIM"

// realServers are the virtual servers of the node itself, whose link has all addresses of
// the plans.
func realServers(t *testing.T) (*kernel.IPVS, *virtualserver.Servers) {
	t.Helper()
	k, err := kernel.New()
	netns.Must(t, err)
	t.Cleanup(k.Close)
	ipvs, err := kernel.OpenIPVS()
	netns.Must(t, err)
	t.Cleanup(ipvs.Close)
	var addrs []addr
	for i := range 7 {
		addrs = append(addrs, vip(i+1))
	}
	return ipvs, virtualserver.New(ipvs, k, owned(virtualserver.Owned{Addrs: addrs}))
}

// TestVictim programs one plan after the other until it is killed.
func TestVictim(t *testing.T) {
	if os.Getenv(victim) == "" {
		t.Log("only as the victim of TestKilledAnywhere")
		return
	}
	_, servers := realServers(t)
	_, err := os.Stdout.WriteString("r")
	netns.Must(t, err)
	for {
		for _, f := range []loadbalancer.Forwarding{before(), after()} {
			_, err := servers.Apply(t.Context(), f)
			netns.Must(t, err)
			_, err = servers.Check(t.Context())
			netns.Must(t, err)
		}
	}
}

// An agent is killed while it programs, again and again: the next ends up as planned, and what
// others have is as it was.
func TestKilledAnywhere(t *testing.T) {
	table1, _ := realServers(t)
	for _, v := range []loadbalancer.VirtualServer{
		service(netip4(10, 96, 0, 1), loadbalancer.TCP, "rr", pods(9)...),
		service(netip4(172, 20, 0, 2), loadbalancer.TCP, "rr", pods(9)...),
		marked(0x4000, pods(9)...),
	} {
		netns.Must(t, table1.AddServer(v))
		netns.Must(t, table1.AddReal(v.VirtualServerKey, v.Reals[0]))
		t.Cleanup(func() { netns.Must(t, table1.DeleteServer(v.VirtualServerKey)) })
	}
	left := 0
	for range 12 {
		kill(t)
		if got := table(t, table1); len(got) > 3 {
			left++
		}
		_, servers := realServers(t)
		r, err := servers.Apply(t.Context(), after())
		netns.Must(t, err)
		for range 2 { // What drains has no connections.
			_, err = servers.Check(t.Context())
			netns.Must(t, err)
		}
		if r.Refused != nil {
			t.Errorf("refused %+v", r.Refused)
		}
		got, want := table(t, table1), settled()
		slices.Sort(got) // The kernel lists by hash.
		slices.Sort(want)
		if !slices.EqualFunc(got, want, sameServers) {
			t.Errorf("kernel has\n%q, want\n%q", got, want)
		}
		if b, err := os.ReadFile("/proc/sys/" + expireNodest); err != nil || string(b) != "0\n" {
			t.Errorf("connections are thrown away: %q, %v", b, err)
		}
	}
	if left == 0 {
		t.Error("no victim ever left anything")
	}
	_, servers := realServers(t)
	netns.Must(t, servers.Remove(t.Context()))
	if got := table(t, table1); len(got) != 3 {
		t.Errorf("left %q", got)
	}
}

// sameServers compares two lines of tables; of schedulers that do not care for the order it
// is as it came.
func sameServers(a, b string) bool {
	x, y := []byte(a), []byte(b)
	if slices.Contains([]string{"mh", "dh", "sh"}, scheduler(a)) {
		return a == b
	}
	slices.Sort(x)
	slices.Sort(y)
	return string(x) == string(y)
}

func scheduler(line string) string {
	for i := range line {
		if line[i] == ' ' && len(line) >= i+3 {
			return line[i+1 : i+3]
		}
	}
	return ""
}

// kill starts a victim and kills it in the midst of its work.
func kill(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	self, err := os.Executable()
	netns.Must(t, err)
	cmd := exec.CommandContext(ctx, self, "-test.run=^TestVictim$", "-test.timeout=1m")
	cmd.Env = append(os.Environ(), victim+"=1")
	out, err := cmd.StdoutPipe()
	netns.Must(t, err)
	netns.Must(t, cmd.Start())
	ready := make([]byte, 1)
	if _, err = io.ReadFull(out, ready); err != nil || ready[0] != 'r' {
		t.Fatalf("the victim says %q: %v", ready, err)
	}
	pass(time.Duration(rand.IntN(200)) * time.Millisecond)
	netns.Must(t, cmd.Process.Kill())
	_ = cmd.Wait() // killed
}
