// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-lb/fairlead/test/bench/ipam"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/plane"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

const (
	// askAgain is how often an address is asked for that has not answered yet.
	askAgain = 250 * time.Millisecond
	// idleTime is how long an idle agent is looked at.
	idleTime       = time.Minute
	rolloutTimeout = 15 * time.Minute
	// placed is the number of Services in the measurement of placement.
	placed = 300
	// moveTime is how long addresses have to move, or not.
	moveTime = 15 * time.Second
)

// Usage of the processes.
type Usage struct {
	// CPU seconds and resident memory; Agents are the range over the nodes.
	ControllerCPU float64 `json:"controllerCPU"`
	ControllerMiB float64 `json:"controllerMiB"`
	AgentCPU      Stat    `json:"agentCPU"`
	AgentMiB      Stat    `json:"agentMiB"`
}

// Growth is one growth of the number of Services.
type Growth struct {
	From int `json:"from"`
	To   int `json:"to"`
	// Seconds from the first POST until all were answered, all had an address, all
	// answered ARP.
	PostedSeconds   float64 `json:"postedSeconds"`
	AddressSeconds  float64 `json:"addressSeconds"`
	AnsweredSeconds float64 `json:"answeredSeconds"`
	// ToAddressMs from a Service's POST until a watch showed its address, ToAnswerMs from
	// there until ARP was answered.
	ToAddressMs Stat `json:"toAddressMs"`
	ToAnswerMs  Stat `json:"toAnswerMs"`
	// Announcements on the wire until all were answered.
	Announcements int `json:"announcements"`
	// Writes to the API server per new Service, by verb and kind.
	Writes map[string]float64 `json:"writes"`
	Busy   Usage              `json:"busy"`
	// Idle is a minute when nothing is written any more; Gossip frames and bytes per
	// second and node meanwhile.
	Idle          Usage   `json:"idle"`
	GossipPackets float64 `json:"gossipPackets"`
	GossipBytes   float64 `json:"gossipBytes"`
}

// Placement is where 300 addresses are, and what moves when nodes come and go.
type Placement struct {
	VIPs map[string]int `json:"vips"`
	// Ratio of the most loaded node to the least.
	Ratio float64 `json:"ratio"`
	// MovedByNewNode when a fourth node came.
	MovedByNewNode int `json:"movedByNewNode"`
	// Removed is how many addresses the node had that was removed; MovedOthers how many
	// moved that were not its own; Unanswered those that nobody answered for afterwards.
	Removed     int `json:"removed"`
	MovedOthers int `json:"movedOthers"`
	Unanswered  int `json:"unanswered"`
	// LongestGapMs any address was silent when its node was removed.
	LongestGapMs float64 `json:"longestGapMs"`
}

// Rollout is a result.
type Rollout struct {
	Head
	Growths   []Growth   `json:"growths"`
	Placement *Placement `json:"placement"`
}

// MeasureRollout creates Services as fast as they are taken, on three nodes.
func MeasureRollout(ctx context.Context, c Config, h Head) (*Rollout, error) {
	res := &Rollout{Head: h}
	err := onRig(ctx, &c, "placement", rig.Options{Nodes: 3}, func(r *rig.Rig) (err error) {
		res.Placement, err = measurePlacement(ctx, &c, r)
		return err
	})
	if err != nil {
		return res, err
	}
	err = onRig(ctx, &c, "rollout", rig.Options{Nodes: 3}, func(r *rig.Rig) error {
		w := newArrival(r)
		watching, stop := context.WithCancel(ctx)
		var wg sync.WaitGroup
		defer func() { stop(); wg.Wait() }()
		wg.Go(func() { w.run(watching) })
		from := 0
		for _, to := range c.sizes(1000, 5000) {
			g, err := grow(ctx, r, w, from, to)
			if err != nil {
				return fmt.Errorf("from %d to %d services: %w", from, to, err)
			}
			res.Growths = append(res.Growths, *g)
			c.say("%d -> %d services: posted %.1f s, addresses %.1f s, answered %.1f s; agents %s MiB, idle %s CPU s",
				from, to, g.PostedSeconds, g.AddressSeconds, g.AnsweredSeconds, g.Idle.AgentMiB, g.Idle.AgentCPU)
			from = to
		}
		return nil
	})
	return res, err
}

// onRig starts a rig with the pool for Services, calls f and removes the rig.
func onRig(ctx context.Context, c *Config, name string, o rig.Options, f func(*rig.Rig) error) error {
	dir, err := c.dir(name)
	if err != nil {
		return err
	}
	o.Root, o.Dir, o.Progress = c.Root, dir, c.Progress
	r, err := rig.Start(ctx, o)
	if err == nil {
		err = r.ApplyScenario(ctx)
	}
	if err == nil {
		err = f(r)
	}
	if err := errors.Join(err, r.Err(), r.Stop()); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// use reads what the processes have used so far.
type use struct {
	controller time.Duration
	agents     []time.Duration
}

func readUse(r *rig.Rig) (u use, err error) {
	if u.controller, err = r.Controller().CPU(); err != nil {
		return u, err
	}
	for _, n := range r.Nodes() {
		cpu, err := n.Agent().CPU()
		if err != nil {
			return u, err
		}
		u.agents = append(u.agents, cpu)
	}
	return u, nil
}

// usage since a reading.
func usage(r *rig.Rig, before use) (*Usage, error) {
	after, err := readUse(r)
	if err != nil {
		return nil, err
	}
	u := &Usage{ControllerCPU: round((after.controller - before.controller).Seconds())}
	var cpu, mib []float64
	for i, n := range r.Nodes() {
		m, err := mebibytes(n.Agent())
		if err != nil {
			return nil, err
		}
		cpu, mib = append(cpu, (after.agents[i]-before.agents[i]).Seconds()), append(mib, m)
	}
	u.AgentCPU, u.AgentMiB = newStat(cpu), newStat(mib)
	u.ControllerMiB, err = mebibytes(r.Controller())
	return u, err
}

func mebibytes(p *plane.Process) (float64, error) {
	kib, err := p.MemoryKiB()
	return round(float64(kib) / 1024), err
}

// grow creates Services until there are so many and waits until all are answered.
func grow(ctx context.Context, r *rig.Rig, w *arrival, from, to int) (*Growth, error) {
	before, err := readUse(r)
	if err != nil {
		return nil, err
	}
	written, err := counters(ctx, r)
	if err != nil {
		return nil, err
	}
	count := r.Client().CountAnnouncements()
	start := time.Now()
	if err := r.CreateServices(ctx, rig.ServiceOptions{From: from, To: to, Posting: w.posted}); err != nil {
		return nil, err
	}
	g := &Growth{From: from, To: to, PostedSeconds: round(time.Since(start).Seconds())}
	if _, err := harness.Eventually(ctx, rolloutTimeout, func(context.Context) error { return errors.Join(r.Err(), w.missing(to)) }); err != nil {
		return nil, err
	}
	for _, by := range count.Stop() {
		for _, n := range by {
			g.Announcements += n.Count
		}
	}
	w.sum(g, start)
	busy, err := usage(r, before)
	if err != nil {
		return nil, err
	}
	g.Busy = *busy
	if err := idle(ctx, r, g); err != nil {
		return nil, err
	}
	after, err := counters(ctx, r)
	if err != nil {
		return nil, err
	}
	g.Writes = map[string]float64{}
	for w, n := range after {
		if n -= written[w]; n*100 >= to-from {
			g.Writes[w.Verb+" "+w.Resource] = round(float64(n) / float64(to-from))
		}
	}
	return g, nil
}

// counters of the API server: writes that succeeded so far.
func counters(ctx context.Context, r *rig.Rig) (map[ipam.Write]int, error) {
	text, err := r.Plane().Kubectl(ctx, "", "get", "--raw", "/metrics")
	return ipam.ParseCounters(text), err
}

// idle looks at a minute without change.
func idle(ctx context.Context, r *rig.Rig, g *Growth) error {
	// Owners are still being written, and events.
	if err := harness.Pause(ctx, idleTime/2); err != nil {
		return err
	}
	before, err := readUse(r)
	if err != nil {
		return err
	}
	sent, err := r.Traffic(ctx)
	if err != nil {
		return err
	}
	if err := harness.Pause(ctx, idleTime); err != nil {
		return err
	}
	u, err := usage(r, before)
	if err != nil {
		return err
	}
	g.Idle = *u
	after, err := r.Traffic(ctx)
	if err != nil {
		return err
	}
	for name, t := range after {
		per := 1 / float64(len(after)) / idleTime.Seconds()
		g.GossipPackets += float64(t.Gossip.Packets-sent[name].Gossip.Packets) * per
		g.GossipBytes += float64(t.Gossip.Bytes-sent[name].Gossip.Bytes) * per
	}
	return nil
}

// arrival notes when each Service was posted, got its address and was answered.
type arrival struct {
	r  *rig.Rig
	mu sync.Mutex
	// by is guarded by mu, as is what it points to.
	by map[string]*service
	// waiting are those that have an address and no answer, by address.
	waiting map[netip.Addr]*service
}

type service struct{ posted, assigned, asked, answered time.Time }

func newArrival(r *rig.Rig) *arrival {
	return &arrival{r: r, by: map[string]*service{}, waiting: map[netip.Addr]*service{}}
}

func (w *arrival) posted(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.by[name] = &service{posted: time.Now()}
}

// run watches and asks until ctx ends.
func (w *arrival) run(ctx context.Context) {
	defer w.r.Client().Hear(func(f rig.Frame) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if s := w.waiting[f.Addr]; s != nil && f.Kind == rig.Answer {
			s.answered = f.At
			delete(w.waiting, f.Addr)
		}
	})()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for harness.Pause(ctx, 10*time.Millisecond) == nil {
			w.ask(time.Now())
		}
	})
	lw := cache.NewListWatchFromClient(w.r.Kube().CoreV1().RESTClient(), "services", rig.Namespace, fields.Everything())
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: lw, ObjectType: &corev1.Service{},
		Handler: cache.ResourceEventHandlerFuncs{AddFunc: w.seen, UpdateFunc: func(_, obj any) { w.seen(obj) }},
	})
	informer.RunWithContext(ctx)
}

func (w *arrival) seen(obj any) {
	svc, ok := obj.(*corev1.Service)
	if !ok || len(svc.Status.LoadBalancer.Ingress) == 0 {
		return
	}
	a, err := netip.ParseAddr(svc.Status.LoadBalancer.Ingress[0].IP)
	if err != nil {
		return // it stays missing
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.by[svc.Name]; s != nil && s.assigned.IsZero() {
		s.assigned = time.Now()
		w.waiting[a] = s
	}
}

func (w *arrival) ask(now time.Time) {
	w.mu.Lock()
	var due []netip.Addr
	for a, s := range w.waiting {
		if now.Sub(s.asked) >= askAgain {
			s.asked = now
			due = append(due, a)
		}
	}
	w.mu.Unlock()
	for _, a := range due {
		_ = w.r.Client().Ask(a, rig.MAC{}) // asked again soon
	}
}

// missing says how many of n are not answered yet.
func (w *arrival) missing(n int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	have := 0
	for _, s := range w.by {
		if !s.answered.IsZero() {
			have++
		}
	}
	if have < n {
		return fmt.Errorf("%d of %d services are answered, %d have an address and no answer", have, n, len(w.waiting))
	}
	return nil
}

func (w *arrival) sum(g *Growth, start time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var toAddress, toAnswer []float64
	for i := g.From; i < g.To; i++ {
		s := w.by[rig.ServiceName(i)]
		toAddress, toAnswer = append(toAddress, ms(s.assigned.Sub(s.posted))), append(toAnswer, ms(s.answered.Sub(s.assigned)))
		g.AddressSeconds = max(g.AddressSeconds, s.assigned.Sub(start).Seconds())
		g.AnsweredSeconds = max(g.AnsweredSeconds, s.answered.Sub(start).Seconds())
	}
	g.ToAddressMs, g.ToAnswerMs = newStat(toAddress), newStat(toAnswer)
	g.AddressSeconds, g.AnsweredSeconds = round(g.AddressSeconds), round(g.AnsweredSeconds)
}
