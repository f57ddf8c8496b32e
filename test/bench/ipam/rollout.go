// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/plane"
)

const (
	namespace = "bench"
	// posters create Services at the same time, as in the measurement of MetalLB.
	posters = 16
	// quiet is how long nobody may write for a step to count as done.
	quiet = 3 * time.Second
	// stepTimeout bounds one step.
	stepTimeout = 15 * time.Minute
)

const scenario = `apiVersion: v1
kind: Namespace
metadata: {name: bench}
---
apiVersion: fairlead.dev/v1alpha1
kind: IPAddressPool
metadata: {name: bench}
spec: {addresses: [10.64.0.0/16]}
---
apiVersion: fairlead.dev/v1alpha1
kind: L2Advertisement
metadata: {name: bench}
spec: {ipAddressPools: [bench]}
`

// Step is one growth of the number of Services.
type Step struct {
	// From, To are the numbers of Services before and after.
	From int `json:"from"`
	To   int `json:"to"`
	// Seconds from the first POST until all POSTs were answered, and until all Services
	// had an address.
	PostedSeconds float64 `json:"postedSeconds"`
	Seconds       float64 `json:"seconds"`
	PerSecond     float64 `json:"servicesPerSecond"`
	// Milliseconds from a Service's POST until a watch showed its address.
	P50Ms float64 `json:"p50Ms"`
	P99Ms float64 `json:"p99Ms"`
	MaxMs float64 `json:"maxMs"`
	// CPU time of the controller per new Service, until nothing was written any more.
	CPUMsPerService float64 `json:"cpuMsPerService"`
	MemoryMiB       int     `json:"memoryMiB"`
	// Writes by kind and writer, per new Service.
	Writes []Write `json:"writes"`
	// ControllerWrites are the controller's successful object writes per new Service,
	// without events and leases; EventWrites its events.
	ControllerWrites float64 `json:"controllerWrites"`
	EventWrites      float64 `json:"eventWrites"`
	// Reads are the controller's reads per new Service, without watches.
	Reads float64 `json:"reads"`
	// Events of the bench's Services that exist at the end of the step, by type and
	// reason, per Service.
	Events map[string]float64 `json:"events"`
}

// Write is how often somebody wrote one kind.
type Write struct {
	Writer   string `json:"writer"`
	Verb     string `json:"verb"`
	Resource string `json:"resource"`
	// Done and Refused requests; PerService of the done ones.
	Done       int     `json:"done"`
	Refused    int     `json:"refused"`
	PerService float64 `json:"perService"`
}

// RolloutConfig of a measurement.
type RolloutConfig struct {
	Root, Dir string
	// Sizes are the numbers of Services to reach, one after another.
	Sizes    []int
	Progress io.Writer
}

// rollout is a running measurement.
type rollout struct {
	c          RolloutConfig
	p          *plane.Plane
	client     kubernetes.Interface
	controller *plane.Process
	watch      *statusWatch
	offset     int64
}

// MeasureRollout grows the number of Services step by step on a fresh control plane with
// one controller, as the manifests run it.
func MeasureRollout(ctx context.Context, c RolloutConfig) (steps []Step, err error) {
	if len(c.Sizes) == 0 || !slices.IsSorted(c.Sizes) || c.Sizes[0] < 1 {
		return nil, errors.New("rollout: sizes must grow")
	}
	p, err := plane.Start(ctx, plane.Options{Root: c.Root, Dir: c.Dir, Audit: true, Progress: c.Progress})
	defer func() { err = errors.Join(err, p.Stop()) }()
	if err != nil {
		return nil, err
	}
	r := &rollout{c: c, p: p, client: p.Client(), watch: newStatusWatch()}
	watching, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer func() { stop(); wg.Wait() }()
	if err := r.prepare(ctx, watching, &wg); err != nil {
		return nil, err
	}
	from := 0
	for _, to := range c.Sizes {
		s, err := r.step(ctx, from, to)
		if err != nil {
			return steps, fmt.Errorf("from %d to %d services: %w", from, to, err)
		}
		steps = append(steps, *s)
		_, _ = fmt.Fprintf(c.Progress, "%5d -> %5d services: %.1f s, %.1f per second, p50 %.0f ms, p99 %.0f ms, CPU %.2f ms and %.2f writes each, %d MiB\n",
			from, to, s.Seconds, s.PerSecond, s.P50Ms, s.P99Ms, s.CPUMsPerService, s.ControllerWrites, s.MemoryMiB)
		from = to
	}
	return steps, nil
}

func (r *rollout) prepare(ctx, watching context.Context, wg *sync.WaitGroup) error {
	if err := r.p.BuildController(ctx); err != nil {
		return err
	}
	if _, err := r.p.Kubectl(ctx, scenario, "apply", "-f", "-"); err != nil {
		return err
	}
	var err error
	if r.controller, err = r.p.StartController(ctx, plane.ControllerOptions{Name: "controller"}); err != nil {
		return err
	}
	_, err = harness.Eventually(ctx, time.Minute, func(ctx context.Context) error {
		_, err := r.p.Kubectl(ctx, "", "wait", "--for=condition=Ready", "--timeout=1s", "ipaddresspools.fairlead.dev", "--all")
		return errors.Join(r.p.Err(), err)
	})
	if err != nil {
		return err
	}
	wg.Go(func() { r.watch.run(watching, r.client) })
	return r.calm(ctx)
}

// step creates Services until there are so many.
func (r *rollout) step(ctx context.Context, from, to int) (*Step, error) {
	before, err := r.controller.CPU()
	if err != nil {
		return nil, err
	}
	if _, r.offset, err = r.p.Requests(r.offset); err != nil { // what went before is not this step's
		return nil, err
	}
	start := time.Now()
	if err := r.post(ctx, from, to); err != nil {
		return nil, err
	}
	posted := time.Since(start)
	if _, err := harness.Eventually(ctx, stepTimeout, func(context.Context) error {
		if n := r.watch.count(); n < to {
			return errors.Join(r.p.Err(), fmt.Errorf("%d of %d services have an address", n, to))
		}
		return nil
	}); err != nil {
		return nil, err
	}
	latencies, last := r.watch.since(from, to)
	seconds := last.Sub(start).Seconds()
	if err := r.calm(ctx); err != nil {
		return nil, err
	}
	after, err := r.controller.CPU()
	if err != nil {
		return nil, err
	}
	kib, err := r.controller.MemoryKiB()
	if err != nil {
		return nil, err
	}
	requests, offset, err := r.p.Requests(r.offset)
	if err != nil {
		return nil, err
	}
	r.offset = offset
	n := to - from
	s := &Step{
		From: from, To: to, PostedSeconds: posted.Seconds(), Seconds: seconds, PerSecond: float64(n) / seconds,
		P50Ms: percentile(latencies, 50), P99Ms: percentile(latencies, 99), MaxMs: percentile(latencies, 100),
		CPUMsPerService: (after - before).Seconds() * 1000 / float64(n), MemoryMiB: kib / 1024,
	}
	s.count(requests, n)
	s.Events, err = r.events(ctx, to)
	return s, err
}

// events counts the events of all Services so far by type and reason, per Service.
func (r *rollout) events(ctx context.Context, services int) (map[string]float64, error) {
	list, err := r.client.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list events: %w", err)
	}
	out := map[string]float64{}
	for i := range list.Items {
		e := &list.Items[i]
		out[e.InvolvedObject.Kind+" "+e.Type+" "+e.Reason] += 1 / float64(services)
	}
	return out, nil
}

// post creates the Services with so many at a time, without pause.
func (r *rollout) post(ctx context.Context, from, to int) error {
	work := make(chan int)
	var wg sync.WaitGroup
	errs := make([]error, posters)
	for i := range posters {
		wg.Go(func() {
			for n := range work {
				if errs[i] == nil {
					errs[i] = r.create(ctx, n)
				}
			}
		})
	}
	for n := from; n < to; n++ {
		work <- n
	}
	close(work)
	wg.Wait()
	return errors.Join(errs...)
}

func (r *rollout) create(ctx context.Context, n int) error {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("s%05d", n), Namespace: namespace},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, Selector: map[string]string{"app": "none"},
			Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}, AllocateLoadBalancerNodePorts: new(bool),
		},
	}
	r.watch.posted(svc.Name, time.Now())
	if _, err := r.client.CoreV1().Services(namespace).Create(ctx, svc, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create %s: %w", svc.Name, err)
	}
	return nil
}

// calm waits until the controller has not written anything but leases for a while.
func (r *rollout) calm(ctx context.Context) error {
	offset, last := r.offset, time.Now()
	_, err := harness.Eventually(ctx, stepTimeout, func(context.Context) error {
		requests, next, err := r.p.Requests(offset)
		if err != nil {
			return err
		}
		offset = next
		for i := range requests {
			if q := &requests[i]; isWrite(q) && !isLease(q) && q.User == controllerUser && q.At.After(last) {
				last = q.At
			}
		}
		if idle := time.Since(last); idle < quiet {
			return fmt.Errorf("the controller wrote %s ago", idle.Round(time.Millisecond))
		}
		return nil
	})
	return err
}

// statusWatch notes when each Service got an address.
type statusWatch struct {
	mu     sync.Mutex
	start  map[string]time.Time
	gotten map[string]time.Time
}

func newStatusWatch() *statusWatch {
	return &statusWatch{start: map[string]time.Time{}, gotten: map[string]time.Time{}}
}

func (w *statusWatch) posted(name string, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.start[name] = at
}

func (w *statusWatch) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.gotten)
}

// run watches until ctx ends.
func (w *statusWatch) run(ctx context.Context, client kubernetes.Interface) {
	lw := cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "services", namespace, fields.Everything())
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: lw, ObjectType: &corev1.Service{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    w.seen,
			UpdateFunc: func(_, obj any) { w.seen(obj) },
		},
	})
	informer.RunWithContext(ctx)
}

func (w *statusWatch) seen(obj any) {
	svc, ok := obj.(*corev1.Service)
	if !ok || len(svc.Status.LoadBalancer.Ingress) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, known := w.gotten[svc.Name]; !known {
		w.gotten[svc.Name] = time.Now()
	}
}

// since returns the sorted latencies of the Services from..to in milliseconds and when
// the last one got its address.
func (w *statusWatch) since(from, to int) (latencies []float64, last time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for n := from; n < to; n++ {
		name := fmt.Sprintf("s%05d", n)
		got := w.gotten[name]
		latencies = append(latencies, got.Sub(w.start[name]).Seconds()*1000)
		if got.After(last) {
			last = got
		}
	}
	slices.Sort(latencies)
	return latencies, last
}

// percentile of sorted values, by nearest rank.
func percentile(sorted []float64, p int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}
