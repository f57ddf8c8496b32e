// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/test/dataplane"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

// Path is what a client gets on one way to the same pods.
type Path struct {
	// Proxy is kube-proxy's mode at that time; Way is how the packets went.
	Proxy dataplane.Mode `json:"kubeProxy"`
	Way   string         `json:"way"`
	// Fresh opens a connection for each question, Kept asks on connections that stay.
	Fresh Load `json:"newConnections"`
	Kept  Load `json:"keptConnections"`
}

// Load is the sum of some rounds.
type Load struct {
	Requests int     `json:"requests"`
	Failed   int     `json:"failed"`
	Rate     float64 `json:"perSecond"`
	P50Ms    float64 `json:"p50Ms"`
	P99Ms    float64 `json:"p99Ms"`

	took      time.Duration
	latencies []time.Duration
}

// How much is asked: every way in turn, so that what the machine does besides hits all.
const (
	clients    = 8
	roundsEach = 3
)

const (
	// patience with an answer.
	patience = 10 * time.Second
	// programmedWithin bounds how long kube-proxy takes, on an emulated processor.
	programmedWithin = 4 * time.Minute
)

// MeasureTraffic asks through Fairlead and through kube-proxy's node port of the same node.
func MeasureTraffic(ctx context.Context, o dataplane.Options, round time.Duration) (out []Path, err error) {
	w, err := dataplane.Start(ctx, o)
	defer func() {
		if err = errors.Join(err, w.Stop()); err != nil {
			showLogs(o.Dir, o.Progress)
		}
	}()
	if err != nil {
		return nil, err //nolint:wrapcheck // says what failed
	}
	began := time.Now()
	say := func(format string, args ...any) {
		_, _ = fmt.Fprintf(o.Progress, "traffic: %4.0f s: "+format+"\n", append([]any{time.Since(began).Seconds()}, args...)...)
	}
	service := &dataplane.Service{Name: "bench", Pods: []*dataplane.Pod{w.A, w.B}}
	for i, mode := range []dataplane.Mode{dataplane.IPTables, dataplane.NFTables} {
		if err := w.Use(ctx, mode); err != nil {
			return out, err //nolint:wrapcheck // says what failed
		}
		say("kube-proxy runs in mode %s", mode)
		if i == 0 {
			if err := w.Create(ctx, service); err != nil {
				return out, err //nolint:wrapcheck // says what failed
			}
		}
		paths, err := compare(ctx, w, service, mode, round, say)
		out = append(out, paths...)
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// showLogs prints the end of every log, which go with the machine.
func showLogs(dir string, to io.Writer) {
	const enough = 3000
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		return // of a pattern that is wrong, which this is not
	}
	for _, path := range logs {
		b, err := os.ReadFile(path) //nolint:gosec // our own
		if err != nil {
			b = []byte(err.Error())
		}
		_, _ = fmt.Fprintf(to, "the end of %s:\n%s\n", filepath.Base(path), b[max(0, len(b)-enough):])
	}
}

func compare(ctx context.Context, w *dataplane.World, service *dataplane.Service, mode dataplane.Mode, round time.Duration,
	say func(string, ...any),
) ([]Path, error) {
	addrs, err := w.Served(ctx, service)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what failed
	}
	vip := addrs[service]
	say("%s is served", vip)
	owner, err := w.Owner(ctx, vip)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what failed
	}
	obj, err := w.Rig.Kube().CoreV1().Services(rig.Namespace).Get(ctx, service.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("find the node port: %w", err)
	}
	port := obj.Spec.Ports[0]
	ways := []struct {
		name string
		to   netip.AddrPort
	}{
		{"Fairlead: address → pod", netip.AddrPortFrom(vip, uint16(port.Port))},                  //nolint:gosec // a port
		{"kube-proxy: node port → pod", netip.AddrPortFrom(owner.IPv4(), uint16(port.NodePort))}, //nolint:gosec // a port
	}
	out := make([]Path, len(ways))
	for i, way := range ways {
		out[i] = Path{Proxy: mode, Way: way.name}
		// Nothing tells when kube-proxy has programmed a Service.
		if _, err := harness.Eventually(ctx, programmedWithin, func(ctx context.Context) error {
			_, err := dataplane.Ask(ctx, w.Client, dataplane.TCP, way.to)
			return err //nolint:wrapcheck // wrapped below
		}); err != nil {
			return nil, fmt.Errorf("%s: %w", way.name, err)
		}
	}
	for n := range roundsEach {
		say("round %d of %d", n+1, roundsEach)
		for i, way := range ways {
			out[i].Fresh.add(load(ctx, round, func(ctx context.Context, until time.Time, note func(time.Duration, error)) {
				askAnew(ctx, w.Client, way.to, until, note)
			}))
			out[i].Kept.add(load(ctx, round, func(ctx context.Context, until time.Time, note func(time.Duration, error)) {
				askOn(ctx, w.Client, way.to, until, note)
			}))
		}
	}
	for i := range out {
		out[i].Fresh.sum()
		out[i].Kept.sum()
	}
	return out, ctx.Err()
}

// load has all clients ask for some time.
func load(ctx context.Context, d time.Duration, ask func(ctx context.Context, until time.Time, note func(time.Duration, error))) Load {
	var mu sync.Mutex
	var out Load
	note := func(took time.Duration, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			out.Failed++
			return
		}
		out.latencies = append(out.latencies, took)
	}
	began := time.Now()
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() { ask(ctx, began.Add(d), note) })
	}
	wg.Wait()
	out.took = time.Since(began)
	return out
}

func askAnew(ctx context.Context, from dataplane.Place, to netip.AddrPort, until time.Time, note func(time.Duration, error)) {
	for ctx.Err() == nil && time.Now().Before(until) {
		began := time.Now()
		_, err := dataplane.Ask(ctx, from, dataplane.TCP, to)
		note(time.Since(began), err)
	}
}

func askOn(ctx context.Context, from dataplane.Place, to netip.AddrPort, until time.Time, note func(time.Duration, error)) {
	var conn net.Conn
	err := from.Do(func() (err error) {
		conn, err = (&net.Dialer{Timeout: patience}).DialContext(ctx, "tcp", to.String())
		return err
	})
	if err != nil {
		note(0, err)
		return
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	for ctx.Err() == nil && time.Now().Before(until) {
		began := time.Now()
		err := conn.SetDeadline(began.Add(patience))
		if err == nil {
			_, err = io.WriteString(conn, "?\n")
		}
		if err == nil {
			_, err = answers.ReadString('\n')
		}
		note(time.Since(began), err)
		if err != nil {
			return
		}
	}
}

func (l *Load) add(o Load) {
	l.Failed += o.Failed
	l.took += o.took
	l.latencies = append(l.latencies, o.latencies...)
}

// sum computes what is reported.
func (l *Load) sum() {
	l.Requests = len(l.latencies)
	if l.Requests == 0 || l.took <= 0 {
		return
	}
	l.Rate = float64(l.Requests) / l.took.Seconds()
	slices.Sort(l.latencies)
	l.P50Ms, l.P99Ms = ms(l.latencies[l.Requests/2]), ms(l.latencies[l.Requests*99/100])
}
