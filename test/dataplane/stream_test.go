// SPDX-License-Identifier: Apache-2.0

//go:build ipvs

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

// steady is the pace of the stream while something happens, half of which one node's pods
// answer.
const steady = 10 * time.Millisecond

// grace of a pod that ends, Kubernetes' default.
const grace = 30 * time.Second

// testStream asks without pause through one node while its parts are replaced.
func testStream(t *testing.T, w *World, mode Mode) {
	s := &Service{Name: "stream", Pods: []*Pod{w.A, w.B}}
	to := w.serve(t, s)
	n := w.Rig.Nodes()[0]
	for _, e := range []struct {
		name string
		do   func(ctx context.Context) error
	}{
		{"agent restarted", func(ctx context.Context) error {
			return errors.Join(n.Terminate(), n.StartAgent(ctx), w.Rig.WaitSettled(ctx))
		}},
		{"agent killed", func(ctx context.Context) error {
			return errors.Join(n.Kill(), harness.Pause(ctx, time.Second), n.StartAgent(ctx), w.Rig.WaitSettled(ctx))
		}},
		{"kube-proxy restarted", func(ctx context.Context) error {
			p := w.Proxies[0]
			return errors.Join(p.Stop(), p.Start(ctx, mode), p.Running(ctx))
		}},
		{"pods roll", func(ctx context.Context) error { return w.roll(ctx, s, to, mode) }},
	} {
		stream := NewStream(t.Context(), w.Via[0], netip.AddrPortFrom(to, servicePort), steady)
		// What fails on the way to a pod without any load balancer is the machine's.
		plain := NewStream(t.Context(), w.Via[1], netip.AddrPortFrom(w.B.IPv4, podPort), 4*steady)
		pause(t, time.Second)
		err := e.do(t.Context())
		pause(t, time.Second)
		result, serr := stream.Stop()
		control, cerr := plain.Stop()
		if err := errors.Join(err, serr, cerr); err != nil {
			t.Errorf("%s: %v", e.name, err)
		}
		w.say("%s: %s: %s", mode, e.name, result)
		w.say("%s: %s: beside it, to a pod without load balancer: %s", mode, e.name, control)
		if len(result.Failures) > 0 && len(control.Failures) == 0 {
			t.Errorf("%s: %s", e.name, result)
		}
	}
	if err := w.Remove(t.Context(), s); err != nil {
		t.Error(err)
	}
}

// roll replaces the pod a as a Deployment does: a new one is ready, the old one serves what
// it has and ends some time after it was told to.
func (w *World) roll(ctx context.Context, s *Service, to netip.Addr, mode Mode) error {
	// The node has two pods of its own; each mode rolls once.
	i := slices.Index(Modes(), mode)
	fresh, err := NewPod(string(rune('c'+i)), w.A.Node, 2+i)
	if err != nil {
		return err
	}
	if err := fresh.Serve(ctx); err != nil {
		return err
	}
	old := w.A
	began := time.Now()
	for _, step := range [][]*Pod{{old, w.B, fresh}, {w.B, fresh}} {
		s.Pods, s.Terminating = step, nil
		if len(step) == 2 {
			s.Terminating = []*Pod{old}
		}
		if err := w.SetEndpoints(ctx, s); err != nil {
			return err
		}
	}
	// It ends when nobody sends to it any more, as one does that waits before it exits; it
	// would be killed after the grace period.
	for _, n := range w.Rig.Nodes() {
		if _, err := harness.Eventually(ctx, grace, func(ctx context.Context) error { return drained(ctx, n, to, old) }); err != nil {
			log, lerr := logSince(n, began)
			return errors.Join(fmt.Errorf("%s: %w; what its agent said meanwhile:\n%s", n.Name(), err, log), lerr)
		}
		w.say("%s was found to have noticed the end of pod %s after %s", n.Name(), old.Name, time.Since(began).Round(time.Millisecond))
	}
	s.Terminating = nil
	old.Refuse()
	if err := w.SetEndpoints(ctx, s); err != nil {
		return err
	}
	w.A = fresh
	return errors.Join(harness.Pause(ctx, time.Second), old.Close())
}

// drained says whether a node sends no new connections for an address to a pod, nor those from
// within, which have marks. kube-proxy in ipvs mode, told to keep its hands off the addresses
// of Services, leaves virtual servers there for ever if a Service had been left to it.
func drained(ctx context.Context, n *rig.Node, to netip.Addr, p *Pod) error {
	virtual, err := OnNode(ctx, n, "ipvsadm", "-Sn")
	if err != nil {
		return err
	}
	at, pod := netip.AddrPortFrom(to, servicePort).String(), netip.AddrPortFrom(p.IPv4, podPort).String()
	for line := range strings.Lines(virtual) {
		// -a -t ADDRESS:PORT -r ADDRESS:PORT -m -w WEIGHT, or -f MARK for the address.
		f := strings.Fields(line)
		if len(f) < 8 || f[0] != "-a" || f[1] != "-f" && f[2] != at {
			continue
		}
		if f[4] == pod && f[7] != "0" {
			return fmt.Errorf("it has %s of\n%s", strings.TrimSpace(line), virtual)
		}
	}
	return nil
}

// cutLimit is how long questions may fail after a power cut: each of the dead pod's does until
// the node's death is known, in about a second on an idle machine.
const cutLimit = 5 * time.Second

// testPowerCut takes a node with a pod off the network under a stream through another node.
// That the gossip needs longer once may be the machine's fault, which is shared and emulated;
// three times in a row is not.
func testPowerCut(t *testing.T, w *World) {
	s := &Service{Name: "power", Pods: []*Pod{w.A, w.B}}
	to := netip.AddrPortFrom(w.serve(t, s), servicePort)
	var spans []time.Duration
	for range 3 {
		span := w.cutPower(t, to)
		spans = append(spans, span)
		if span <= cutLimit {
			break
		}
	}
	if slices.Min(spans) > cutLimit {
		t.Errorf("questions failed over more than %s: %v", cutLimit, spans)
	}
	if err := w.Remove(t.Context(), s); err != nil {
		t.Error(err)
	}
}

// cutPower returns over how long questions failed.
func (w *World) cutPower(t *testing.T, to netip.AddrPort) time.Duration {
	t.Helper()
	stream := NewStream(t.Context(), w.Via[0], to, steady)
	pause(t, time.Second)
	n := w.Rig.Nodes()[1]
	cut, err := n.PowerCut()
	pause(t, 8*time.Second)
	result, serr := stream.Stop()
	if err := errors.Join(err, serr); err != nil {
		t.Error(err)
	}
	w.say("power cut at %s: %s", cut.Format(time.TimeOnly), result)
	after, err := Ask(t.Context(), w.Via[0], TCP, to)
	if err != nil || after.Pod != w.A.Name {
		t.Errorf("pod %s answers, %v, want %s", after.Pod, err, w.A.Name)
	}
	// Its kernel has kept everything, as after a pulled cable.
	if err := errors.Join(n.LinkUp(), n.StartAgent(t.Context()), w.Rig.WaitSettled(t.Context())); err != nil {
		t.Error(err)
	}
	return result.Span()
}
