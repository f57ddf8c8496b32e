// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

const (
	// gossipVIPs are announced, so that nodes watch each other.
	gossipVIPs  = 100
	trafficTime = 30 * time.Second
	starveTime  = time.Minute
	pauseTime   = 10 * time.Second
	// loopsPerCore starve every agent.
	loopsPerCore = 16
	limit        = 50
	// afterwards is how long late verdicts are waited for.
	afterwards = 10 * time.Second
)

// Death is how one silent death was noticed.
type Death struct {
	// Milliseconds after the cut: the first and the last pulse that said so, the first, median and
	// last peer that lost the member, and the last of its addresses answered by another.
	PulseMs     float64 `json:"pulseMs"`
	LastPulseMs float64 `json:"lastPulseMs"`
	FirstMs     float64 `json:"firstMs"`
	MedianMs    float64 `json:"medianMs"`
	LastMs      float64 `json:"lastMs"`
	AnswerMs    float64 `json:"answerMs"`
	VIPs        int     `json:"vips"`
}

// Starved is what agents without processor time made of it.
type Starved struct {
	Name string `json:"name"`
	// Deaths are verdicts of memberlist about members that were alive, Verdicts those of the pulse.
	Deaths   int `json:"deaths"`
	Verdicts int `json:"verdicts"`
	// OwnerChanges counts over all addresses how often another node answered than before,
	// Terms how often a node began to announce one, by the epochs.
	OwnerChanges int `json:"ownerChanges"`
	Terms        int `json:"terms"`
	// Asked and answered requests by ARP, and the longest silence of an address.
	Asked        int     `json:"asked"`
	Answered     int     `json:"answered"`
	LongestGapMs float64 `json:"longestGapMs"`
}

// Members is a result for one number of nodes.
type Members struct {
	Profile string `json:"profile"`
	Nodes   int    `json:"nodes"`
	// Per node and second: frames and bytes without Ethernet headers that it sends.
	GossipPackets Stat `json:"gossipPackets"`
	GossipBytes   Stat `json:"gossipBytes"`
	PulsePackets  Stat `json:"pulsePackets"`
	PulseBytes    Stat `json:"pulseBytes"`
	// CPU per node in thousandths of a core, memory in MiB.
	CPU     Stat      `json:"cpu"`
	MiB     Stat      `json:"mib"`
	Deaths  []Death   `json:"deaths"`
	Starved []Starved `json:"starved"`
}

// Gossip is a result.
type Gossip struct {
	Head
	Members []Members `json:"members"`
}

// MeasureGossip runs rigs of several sizes.
func MeasureGossip(ctx context.Context, c Config, h Head) (*Gossip, error) {
	res := &Gossip{Head: h}
	for _, profile := range c.Profiles {
		for _, n := range c.sizes(3, 10, 50) {
			m := Members{Profile: profile, Nodes: n}
			o := rig.Options{Nodes: n, AgentArgs: append(profileArgs(profile), "--announce-interval=0")}
			err := onRig(ctx, &c, fmt.Sprintf("gossip-%s-%d", profile, n), o, func(r *rig.Rig) error { return measureMembers(ctx, &c, r, &m) })
			res.Members = append(res.Members, m)
			if err != nil {
				return res, err
			}
		}
	}
	return res, nil
}

func measureMembers(ctx context.Context, c *Config, r *rig.Rig, m *Members) error {
	if err := r.CreateServices(ctx, rig.ServiceOptions{To: gossipVIPs}); err != nil {
		return err
	}
	addrs, err := waitAddresses(ctx, r, gossipVIPs)
	if err != nil {
		return err
	}
	if _, err := waitOwners(ctx, r, addrs); err != nil {
		return err
	}
	if err := harness.Pause(ctx, afterwards); err != nil {
		return err
	}
	if err := measureTraffic(ctx, r, m); err != nil {
		return err
	}
	c.say("%s, %d nodes: gossip %s packets/s %s bytes/s, pulse %s packets/s, CPU %s m, memory %s MiB per node",
		m.Profile, m.Nodes, m.GossipPackets, m.GossipBytes, m.PulsePackets, m.CPU, m.MiB)
	for i := range max(1, c.Runs/3) {
		d, err := dieOnce(ctx, r, addrs)
		if err != nil {
			return fmt.Errorf("death %d: %w", i+1, err)
		}
		m.Deaths = append(m.Deaths, *d)
		c.say("%s, %d nodes, death %d: pulse %.0f to %.0f, memberlist %.0f / %.0f / %.0f, %d VIPs answered after %.0f ms",
			m.Profile, m.Nodes, i+1, d.PulseMs, d.LastPulseMs, d.FirstMs, d.MedianMs, d.LastMs, d.VIPs, d.AnswerMs)
	}
	owners, err := waitOwners(ctx, r, addrs)
	if err != nil {
		return err
	}
	for _, s := range starvations(r, busiest(r, owners)) {
		got, err := starve(ctx, r, addrs, s)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		m.Starved = append(m.Starved, *got)
		c.say("%s, %d nodes, %s: %d deaths, %d pulse verdicts, %d owner changes, %d terms, %d of %d answered, longest silence %.0f ms",
			m.Profile, m.Nodes, got.Name, got.Deaths, got.Verdicts, got.OwnerChanges, got.Terms, got.Answered, got.Asked, got.LongestGapMs)
	}
	return nil
}

// measureTraffic counts what nodes send and use when nothing happens.
func measureTraffic(ctx context.Context, r *rig.Rig, m *Members) error {
	before, err := r.Traffic(ctx)
	if err != nil {
		return err
	}
	used, err := readUse(r)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := harness.Pause(ctx, trafficTime); err != nil {
		return err
	}
	after, err := r.Traffic(ctx)
	if err != nil {
		return err
	}
	u, err := usage(r, used)
	if err != nil {
		return err
	}
	seconds := time.Since(start).Seconds()
	per := func(get func(rig.Traffic) int) Stat {
		values := make([]float64, 0, len(after))
		for name, t := range after {
			values = append(values, float64(get(t)-get(before[name]))/seconds)
		}
		return newStat(values)
	}
	m.GossipPackets, m.GossipBytes = per(func(t rig.Traffic) int { return t.Gossip.Packets }), per(func(t rig.Traffic) int { return t.Gossip.Bytes })
	m.PulsePackets, m.PulseBytes = per(func(t rig.Traffic) int { return t.Pulse.Packets }), per(func(t rig.Traffic) int { return t.Pulse.Bytes })
	milli := 1000 / seconds
	m.CPU = Stat{N: u.AgentCPU.N, Min: round(u.AgentCPU.Min * milli), P50: round(u.AgentCPU.P50 * milli), P99: round(u.AgentCPU.P99 * milli), Max: round(u.AgentCPU.Max * milli)}
	m.MiB = u.AgentMiB
	return nil
}

// dieOnce cuts the power of a random node and reads what the others' logs say.
func dieOnce(ctx context.Context, r *rig.Rig, addrs []netip.Addr) (*Death, error) {
	owners, err := waitOwners(ctx, r, addrs)
	if err != nil {
		return nil, err
	}
	nodes := r.Nodes()
	victim := nodes[rand.IntN(len(nodes))] //nolint:gosec // chance, not secrecy
	var moved []netip.Addr
	for a, n := range owners {
		if n == victim.Name() {
			moved = append(moved, a)
		}
	}
	cut, err := victim.PowerCut()
	if err != nil {
		return nil, err
	}
	asking, stop := context.WithTimeout(ctx, takeoverTimeout)
	defer stop()
	answers, err := r.Client().AskUntil(asking, moved, 10*time.Millisecond, func(f rig.Frame) bool { return f.MAC != victim.MAC() })
	if err != nil || len(answers) < len(moved) {
		return nil, errors.Join(err, fmt.Errorf("%d of %d addresses are answered", len(answers), len(moved)))
	}
	d := &Death{VIPs: len(moved)}
	for _, f := range answers {
		d.AnswerMs = max(d.AnswerMs, ms(f.At.Sub(cut)))
	}
	_, err = harness.Eventually(ctx, takeoverTimeout, func(context.Context) error { return d.read(r, victim, cut) })
	if err != nil {
		return nil, err
	}
	return d, errors.Join(victim.PowerOn(ctx), r.WaitSettled(ctx))
}

// read finds the verdicts about one node in the others' logs.
func (d *Death) read(r *rig.Rig, victim *rig.Node, cut time.Time) error {
	var lost []float64
	d.PulseMs, d.LastPulseMs = 0, 0
	for _, n := range r.Nodes() {
		if n == victim {
			continue
		}
		v, err := readVerdicts(n.LogFile(), cut)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(v, func(x verdict) bool { return x.peer == victim.Name() && !x.pulse })
		if i < 0 {
			return fmt.Errorf("%s has not lost %s", n.Name(), victim.Name())
		}
		lost = append(lost, ms(v[i].at.Sub(cut)))
		if i := slices.IndexFunc(v, func(x verdict) bool { return x.peer == victim.Name() && x.pulse }); i >= 0 {
			at := ms(v[i].at.Sub(cut))
			d.LastPulseMs = max(d.LastPulseMs, at)
			if d.PulseMs == 0 || at < d.PulseMs {
				d.PulseMs = at
			}
		}
	}
	s := newStat(lost)
	d.FirstMs, d.MedianMs, d.LastMs = s.Min, s.P50, s.Max
	return nil
}

// starvation is one way to take processor time away.
type starvation struct {
	name string
	do   func(ctx context.Context) error
}

// busiest is the node with the most addresses.
func busiest(r *rig.Rig, owners map[netip.Addr]string) *rig.Node {
	count := map[string]int{}
	for _, n := range owners {
		count[n]++
	}
	return slices.MaxFunc(r.Nodes(), func(a, b *rig.Node) int { return count[a.Name()] - count[b.Name()] })
}

func starvations(r *rig.Rig, one *rig.Node) []starvation {
	return []starvation{
		{fmt.Sprintf("%d busy loops per core for %s", loopsPerCore, starveTime), func(ctx context.Context) error {
			return r.Burn(ctx, loopsPerCore*runtime.NumCPU(), starveTime)
		}},
		{fmt.Sprintf("agent of the busiest node at %dm CPU for %s", limit, starveTime), func(ctx context.Context) error {
			err := one.Limit(limit)
			return errors.Join(err, harness.Pause(ctx, starveTime), one.Limit(0))
		}},
		{fmt.Sprintf("agent of the busiest node stopped for %s", pauseTime), func(ctx context.Context) error {
			err := one.Pause()
			return errors.Join(err, harness.Pause(ctx, pauseTime), one.Continue())
		}},
	}
}

// starve counts what changes that should not.
func starve(ctx context.Context, r *rig.Rig, addrs []netip.Addr, s starvation) (*Starved, error) {
	before, err := r.Owners(ctx)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	watch := r.Client().Watch(ctx, addrs, 100*time.Millisecond)
	err = errors.Join(s.do(ctx), harness.Pause(ctx, afterwards))
	seen, werr := watch.Stop()
	if err := errors.Join(err, werr); err != nil {
		return nil, err
	}
	got := &Starved{Name: s.name}
	for _, x := range seen {
		got.Asked, got.Answered = got.Asked+x.Asked, got.Answered+x.Answered
		got.LongestGapMs = max(got.LongestGapMs, ms(x.LongestGap))
		got.OwnerChanges += max(0, len(x.Owners)-1)
	}
	if err := r.WaitSettled(ctx); err != nil {
		return nil, err
	}
	after, err := r.Owners(ctx)
	if err != nil {
		return nil, err
	}
	got.Terms = terms(before, after)
	for _, n := range r.Nodes() {
		v, err := readVerdicts(n.LogFile(), start)
		if err != nil {
			return nil, err
		}
		for _, x := range v {
			if x.pulse {
				got.Verdicts++
			} else {
				got.Deaths++
			}
		}
	}
	return got, nil
}

// terms counts how often a node began to announce an address.
func terms(before, after map[netip.Addr]v1alpha1.Owner) int {
	n := 0
	for a, owner := range after {
		n += max(0, int(owner.Epoch-before[a].Epoch))
	}
	return n
}
