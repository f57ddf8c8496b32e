// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package member

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/test/netns"
)

func TestMain(m *testing.M) { os.Exit(netns.Main(m)) }

// node is one agent's layer in this test.
type node struct {
	*Layer
	name    loadbalancer.NodeName
	stop    context.CancelFunc
	done    chan error
	changed chan struct{}
	keyFile string
	unplug  func()
}

func writeKeys(t *testing.T, path string, keys ...byte) {
	t.Helper()
	var out []byte
	for _, k := range keys {
		out = append(out, base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{k}, keySize))...)
		out = append(out, '\n')
	}
	if err := os.WriteFile(path, out, 0o600); err != nil {
		t.Fatal(err)
	}
}

// addrsOf returns the addresses of n nodes.
func addrsOf(n int) map[loadbalancer.NodeName]netip.Addr {
	out := map[loadbalancer.NodeName]netip.Addr{}
	for i := range n {
		out[loadbalancer.NodeName(fmt.Sprintf("n%d", i))] = netip.AddrFrom4([4]byte{10, 99, 0, byte(i + 1)})
	}
	return out
}

// cluster starts n layers on 10.99.0.1, 10.99.0.2 …, which know of each other.
func cluster(t *testing.T, n int, keys ...byte) []*node {
	t.Helper()
	var out []*node
	for i := range n {
		out = append(out, startNode(t, i, 1, addrsOf(n), keys...))
	}
	return out
}

func startNode(t *testing.T, i int, boot uint64, addrs map[loadbalancer.NodeName]netip.Addr, keys ...byte) *node {
	t.Helper()
	name := loadbalancer.NodeName(fmt.Sprintf("n%d", i))
	nd := &node{name: name, done: make(chan error, 1), changed: make(chan struct{}, 1), keyFile: filepath.Join(t.TempDir(), "keys")}
	if len(keys) > 0 {
		writeKeys(t, nd.keyFile, keys...)
	}
	nd.Layer = New(Config{Node: name, Addr: addrs[name], Port: 7956, KeyFile: nd.keyFile, Boot: boot}, func() {
		select {
		case nd.changed <- struct{}{}:
		default:
		}
	})
	nd.unplug = sync.OnceFunc(netns.AddAddr(t, "lo", addrs[name].String()+"/32"))
	nd.SetPeers(addrs)
	ctx, cancel := context.WithCancel(t.Context())
	nd.stop = cancel
	go func() { nd.done <- nd.Run(ctx) }()
	t.Cleanup(func() { nd.leave(t) })
	return nd
}

// leave stops the layer with a goodbye.
func (n *node) leave(t *testing.T) {
	t.Helper()
	n.stop()
	select {
	case err := <-n.done:
		if err != nil {
			t.Errorf("%s: Run: %v", n.name, err)
		}
		n.done <- nil
		n.unplug()
	case <-time.After(10 * time.Second):
		t.Errorf("%s does not stop", n.name)
	}
}

// slack is how much longer than on a calm machine a step may take: these clocks are real.
const slack = 5

// until waits for a view and returns how long it took.
func (n *node) until(t *testing.T, what string, within time.Duration, ok func(View) bool) time.Duration {
	t.Helper()
	start := time.Now()
	within *= slack
	timeout := time.NewTimer(within)
	defer timeout.Stop()
	for !ok(n.View()) {
		select {
		case <-n.changed:
		case <-timeout.C:
			t.Fatalf("%s: not %s within %s: %+v", n.name, what, within, n.View())
		}
	}
	return time.Since(start)
}

func sees(names ...loadbalancer.NodeName) func(View) bool {
	return func(v View) bool {
		known := 0
		for _, n := range names {
			if v.Members[n].Known {
				known++
			}
		}
		return v.Up && v.Settled && known == len(names) && len(v.Members) == len(names)
	}
}

func TestThreeNodes(t *testing.T) {
	nodes := cluster(t, 3, 1)
	for _, n := range nodes {
		n.Publish(State{Interfaces: []loadbalancer.Interface{{Name: "eth0"}}})
	}
	nodes[0].until(t, "complete", 10*time.Second, sees("n1", "n2"))
	nodes[1].until(t, "complete", 10*time.Second, sees("n0", "n2"))
	nodes[2].until(t, "complete", 10*time.Second, sees("n0", "n1"))

	// A claim reaches the others; a thousand do as well; so does giving them up.
	nodes[1].Publish(State{Claims: map[loadbalancer.Group]uint64{"g": 7}})
	took := nodes[0].until(t, "told of the claim", time.Second, func(v View) bool { return v.Members["n1"].Claims["g"] == 7 })
	t.Logf("a claim took %s", took)
	many := map[loadbalancer.Group]uint64{}
	for i := range 1000 {
		many[loadbalancer.Group(fmt.Sprintf("10.0.%d.%d", i/250, i%250))] = 3
	}
	nodes[1].Publish(State{Claims: many})
	took = nodes[2].until(t, "told of all claims", 5*time.Second, func(v View) bool { return len(v.Members["n1"].Claims) == 1000 })
	t.Logf("a thousand claims took %s", took)

	// A silent death is noticed by both others, within two seconds.
	nodes[1].unplug()
	for _, i := range []int{0, 2} {
		other := nodes[2-i].name
		took := nodes[i].until(t, "rid of the dead", 2*time.Second, sees(other))
		t.Logf("%s noticed the death after %s", nodes[i].name, took)
	}
}

func TestGoodbyeIsNoticedAtOnce(t *testing.T) {
	nodes := cluster(t, 2, 1)
	for _, n := range nodes {
		n.Publish(State{})
	}
	nodes[0].until(t, "complete", 10*time.Second, sees("n1"))
	nodes[1].Publish(State{Leaving: true})
	nodes[0].until(t, "told of the leaving", time.Second, func(v View) bool { return v.Members["n1"].Leaving })
	nodes[1].leave(t)
	nodes[0].until(t, "alone", time.Second, sees())
}

func TestRestartReplacesOldState(t *testing.T) {
	nodes := cluster(t, 2, 1)
	for _, n := range nodes {
		n.Publish(State{Claims: map[loadbalancer.Group]uint64{"g": 7}})
	}
	nodes[0].until(t, "complete", 10*time.Second, sees("n1"))
	nodes[1].unplug()
	nodes[1].leave(t)
	again := startNode(t, 1, 2, addrsOf(2), 1)
	again.Publish(State{Interfaces: []loadbalancer.Interface{{Name: "new"}}})
	nodes[0].until(t, "told of the new state", 10*time.Second, func(v View) bool {
		m := v.Members["n1"]
		return m.Known && len(m.Claims) == 0 && len(m.Interfaces) == 1
	})
	again.until(t, "complete", 10*time.Second, func(v View) bool { return v.Members["n0"].Claims["g"] == 7 })
}

func TestWaitsForTheKey(t *testing.T) {
	nodes := cluster(t, 1)
	if v := nodes[0].View(); v.Up || v.Settled {
		t.Errorf("up without a key: %+v", v)
	}
	writeKeys(t, nodes[0].keyFile, 1)
	took := nodes[0].until(t, "alone", 10*time.Second, sees())
	if took < aloneAfter {
		t.Errorf("acts alone after %s, want at least %s", took, aloneAfter)
	}
	if ids := nodes[0].View().KeyIDs; len(ids) != 1 {
		t.Errorf("key ids %v, want one", ids)
	}
}

func TestWrongKeyKeepsOut(t *testing.T) {
	nodes := cluster(t, 2, 1)
	nodes[0].until(t, "complete", 10*time.Second, func(v View) bool { return len(v.Members) == 1 })
	writeKeys(t, nodes[1].keyFile, 2)
	nodes[1].until(t, "using its new key", 10*time.Second, func(v View) bool { return len(v.KeyIDs) == 1 && v.KeyIDs[0] != nodes[0].View().KeyIDs[0] })
	nodes[0].until(t, "rid of the other", 10*time.Second, func(v View) bool { return len(v.Members) == 0 })
}

func TestKeyRotation(t *testing.T) {
	nodes := cluster(t, 2, 1)
	for _, n := range nodes {
		n.Publish(State{})
		n.until(t, "complete", 10*time.Second, func(v View) bool { return len(v.Members) == 1 })
	}
	for _, keys := range [][]byte{{1, 2}, {2, 1}, {2}} {
		for _, n := range nodes {
			writeKeys(t, n.keyFile, keys...)
		}
		for _, n := range nodes {
			n.until(t, "rotated", 5*time.Second, func(v View) bool { return len(v.KeyIDs) == len(keys) && len(v.Members) == 1 })
		}
	}
	nodes[0].Publish(State{Leaving: true})
	nodes[1].until(t, "told with the new key", 5*time.Second, func(v View) bool { return v.Members["n0"].Leaving })
}
