// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel/kerneltest"
)

// simSettings are the settings of a node's kernel, and its addresses on links that do not
// announce.
type simSettings struct {
	setting sync.Mutex
	arp     map[string]kernel.ARPSettings // guarded by setting
	local   map[netip.Addr][]string       // guarded by setting
	refuse  error                         // guarded by setting
	sets    int                           // guarded by setting: how often anything was set
	ipvs    *kerneltest.Fake              // nil where the kernel has none
	fixed   error                         // guarded by setting: sysctls cannot be set
}

func (k *simSettings) Sysctl(name string) (string, error) {
	if k.ipvs == nil {
		return "", kernel.ErrNotFound
	}
	return k.ipvs.Sysctl(name)
}

func (k *simSettings) SetSysctl(name, value string) error {
	k.setting.Lock()
	defer k.setting.Unlock()
	if k.fixed != nil {
		return k.fixed
	}
	return k.ipvs.SetSysctl(name, value)
}

func (k *simSettings) ARPSettings() (map[string]kernel.ARPSettings, error) {
	k.setting.Lock()
	defer k.setting.Unlock()
	if k.arp == nil {
		k.arp = map[string]kernel.ARPSettings{"eth0": {Index: 2}, "eth1": {Index: 3}, "lo": {Index: 1}}
	}
	return maps.Clone(k.arp), nil
}

func (k *simSettings) SetARP(s kernel.ARPSettings) error {
	k.setting.Lock()
	defer k.setting.Unlock()
	if k.refuse != nil {
		return k.refuse
	}
	k.sets++
	for name, have := range k.arp {
		if have.Index == s.Index {
			k.arp[name] = s
		}
	}
	return nil
}

func (k *simSettings) LocalIPv4() (map[netip.Addr][]string, error) {
	k.setting.Lock()
	defer k.setting.Unlock()
	return maps.Clone(k.local), nil
}

// adds puts an address on a link of the node that does not announce.
func (n *simNode) adds(link, addr string) {
	n.setting.Lock()
	n.local = map[netip.Addr][]string{netip.MustParseAddr(addr): {link}}
	n.setting.Unlock()
	mark(n.agent.linksDirty)
}

// has returns a link's settings as ignore/announce.
func (n *simNode) has(link string) string {
	have, _ := n.ARPSettings()
	return fmt.Sprintf("%d/%d", have[link].Ignore, have[link].Announce)
}

// recorded are the settings in the API, in short.
func (s *sim) recorded(node string) string {
	n, _ := s.agents.Peek(node)
	var out []string
	if n != nil {
		for _, r := range n.Status.KernelSettings {
			out = append(out, r.Name+":"+r.Former+">"+r.Value)
		}
	}
	return strings.Join(out, " ")
}

const recordedEth0 = "net/ipv4/conf/eth0/arp_announce:0>2 net/ipv4/conf/eth0/arp_ignore:0>1"

// An address of a Service on kube-ipvs0 makes every kernel answer for it: it is kept from
// that, on every node and every link that announces, until the agent leaves.
func TestKernelIsKeptSilent(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		a := s.nodes["a"]
		a.adds("kube-ipvs0", vip)
		s.wait(time.Second)
		if got := a.has("eth0"); got != "0/0" {
			s.t.Errorf("without a Service eth0 has %s", got)
		}
		s.bind(vip, loadbalancer.Cluster, "b", "a")
		s.wait(2 * time.Second)
		if got := a.has("eth0") + " " + s.nodes["b"].has("eth0") + " " + a.has("lo"); got != "1/2 0/0 0/0" {
			s.t.Errorf("eth0 of a, of b, and lo have %s", got)
		}
		if got := s.recorded("a"); got != recordedEth0 {
			s.t.Errorf("recorded: %s", got)
		}
		a.plug(netip.MustParsePrefix("10.1.0.1/24"))
		s.wait(2 * time.Second)
		if got := a.has("eth1"); got != "1/2" {
			s.t.Errorf("a link that came later has %s", got)
		}
		s.terminate("a")
		if got := a.has("eth0") + " " + a.has("eth1"); got != "0/0 0/0" {
			s.t.Errorf("after the leave eth0 and eth1 have %s", got)
		}
		if got := s.recorded("a"); got != "" {
			s.t.Errorf("after the leave recorded: %s", got)
		}
	})
}

// A restarted agent knows what the one before it changed, and restores it when it leaves.
func TestSettingsOutliveARestart(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "a", "b")
		s.nodes["a"].adds("lo", vip)
		s.wait(2 * time.Second)
		s.sigterm("a")
		if got := s.nodes["a"].has("eth0"); got != "1/2" {
			s.t.Errorf("while the agent restarts eth0 has %s", got)
		}
		s.start("a")
		s.wait(3 * time.Second)
		a := s.nodes["a"]
		if got := s.recorded("a"); got != recordedEth0 {
			s.t.Errorf("after the restart recorded: %s", got)
		}
		s.terminate("a")
		if got := a.has("eth0"); got != "0/0" {
			s.t.Errorf("after the leave eth0 has %s", got)
		}
	})
}

// What somebody set higher is not lowered, what somebody changed since is left alone, and
// what cannot be set does not stop the agent.
func TestForeignSettingsAreRespected(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		a, b := s.nodes["a"], s.nodes["b"]
		change := func(n *simNode, ignore, announce int32) {
			have, _ := n.ARPSettings()
			eth0 := have["eth0"]
			eth0.Ignore, eth0.Announce = ignore, announce
			if err := n.SetARP(eth0); err != nil {
				s.t.Error(err)
			}
		}
		change(a, 2, 0)
		b.setting.Lock()
		b.refuse = errors.New("operation not permitted")
		b.setting.Unlock()
		s.bind(vip, loadbalancer.Cluster, "c", "a", "b")
		for _, n := range []*simNode{a, b, s.nodes["c"]} {
			n.adds("lo", vip)
		}
		s.wait(2 * time.Second)
		if got := a.has("eth0") + " " + b.has("eth0") + " " + s.who(vip); got != "2/2 0/0 c" {
			s.t.Errorf("eth0 of a, of b, and who answers: %s", got)
		}
		if got := s.recorded("a") + s.recorded("b"); got != "net/ipv4/conf/eth0/arp_announce:0>2" {
			s.t.Errorf("recorded: %s", got)
		}
		change(a, 2, 1)
		s.terminate("a")
		if got := a.has("eth0"); got != "2/1" {
			s.t.Errorf("after the leave eth0 has %s, want what somebody set", got)
		}
	})
}

// A setting that is not recorded is not made: a crash would leave it for ever.
func TestSettingsAreRecordedFirst(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "b", "a")
		s.wait(2 * time.Second)
		a := s.nodes["a"]
		s.agents.FailWith(func() error { return errors.New("the API server is away") })
		a.adds("lo", vip)
		s.wait(5 * time.Second)
		if got := a.has("eth0"); got != "0/0" {
			s.t.Errorf("unrecorded, eth0 has %s", got)
		}
		s.agents.FailWith(nil)
		s.wait(time.Minute)
		if got := a.has("eth0") + " " + s.recorded("a"); got != "1/2 "+recordedEth0 {
			s.t.Errorf("eth0 has, and recorded: %s", got)
		}
	})
}

// Nothing is set, and nothing is asked for, while nothing changes.
func TestSettingsAreQuiet(t *testing.T) {
	t.Parallel()
	simulate(t, abc(), func(s *sim) {
		s.bind(vip, loadbalancer.Cluster, "a", "b")
		s.nodes["a"].adds("lo", vip)
		s.wait(2 * time.Second)
		s.wait(10 * time.Minute)
		a := s.nodes["a"]
		a.setting.Lock()
		defer a.setting.Unlock()
		if a.sets != 1 {
			s.t.Errorf("set %d times, want once", a.sets)
		}
	})
}

func TestSettingNames(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][]string{
		"net/ipv4/conf/eth0.5/arp_ignore": {"eth0.5", "arp_ignore"},
		"net/ipv4/conf/a/b/arp_announce":  {"a/b", "arp_announce"},
		"rubbish":                         {"", ""},
		"":                                {"", ""},
	} {
		link, name := settingOf(in)
		if !slices.Equal([]string{link, name}, want) {
			t.Errorf("%q: %q and %q, want %v", in, link, name, want)
		}
	}
}
