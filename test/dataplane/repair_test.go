// SPDX-License-Identifier: Apache-2.0

//go:build ipvs

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

const (
	// repairTimeout is generous: an emulated processor is shared with everything here. The
	// time that it took is printed.
	repairTimeout = 15 * time.Second
	// quiet for so long, kube-proxy has nothing to do.
	quiet = 5 * time.Second
	// pace of the stream while something is broken.
	pace = 20 * time.Millisecond
)

// testRepair breaks one thing after the other under a stream of new connections through the
// broken node: all is as before afterwards, nobody was refused, and nothing else changed.
func testRepair(t *testing.T, w *World, mode Mode) {
	s := &Service{Name: "repair", Pods: []*Pod{w.A, w.B}}
	to := w.serve(t, s)
	n := w.Rig.Nodes()[0]
	w.settle(t, n, s)
	breaks := []struct {
		name string
		do   func(ctx context.Context) error
	}{
		{name: "virtual servers removed", do: func(ctx context.Context) error { return removeServers(ctx, n, to) }},
		{name: "table deleted", do: func(ctx context.Context) error { return deleteTables(ctx, n) }},
		{name: "link removed", do: func(ctx context.Context) error { return run(ctx, n, "ip", "link", "del", "dummy-fairlead") }},
		{name: "address removed", do: func(ctx context.Context) error {
			return run(ctx, n, "ip", "addr", "del", to.String()+"/32", "dev", "dummy-fairlead")
		}},
		{name: "kube-proxy restarted", do: func(ctx context.Context) error {
			p := w.Proxies[0]
			return errors.Join(p.Stop(), p.Start(ctx, mode), p.Running(ctx))
		}},
	}
	for _, b := range breaks {
		t.Run(strings.ReplaceAll(b.name, " ", "-"), func(t *testing.T) {
			before := readKernel(t, n)
			stream := NewStream(t.Context(), w.Via[0], netip.AddrPortFrom(to, servicePort), pace)
			pause(t, time.Second)
			began := time.Now()
			err := b.do(t.Context())
			broken := time.Since(began)
			if err != nil {
				t.Error(err)
			}
			took, err := harness.Eventually(t.Context(), repairTimeout, func(ctx context.Context) error {
				now, err := ReadKernel(ctx, n)
				return errors.Join(err, same("our own", before.Ours, now.Ours))
			})
			if err != nil {
				t.Error(err)
			}
			pause(t, time.Second)
			result, err := stream.Stop()
			if err != nil {
				t.Error(err)
			}
			log, back := repairs(t, n, began)
			w.say("%s: %s: broken in %s, put back %s, found whole %s later; %s", mode, b.name, broken.Round(time.Millisecond), back, took.Round(time.Millisecond), result)
			for _, f := range result.Failures {
				t.Errorf("%s after the break began: %v", f.At.Sub(began).Round(time.Millisecond), f.Err)
			}
			if t.Failed() {
				t.Logf("what the agent said since %s:\n%s", began.Format(klogTime), log)
			}
			// A kube-proxy that has just started says that it runs before it has programmed all.
			_, err = harness.Eventually(t.Context(), time.Minute, func(ctx context.Context) error {
				after, err := ReadKernel(ctx, n)
				return errors.Join(err, same("what is kube-proxy's", lasting(before.Proxy), lasting(after.Proxy)), same("what is others'", before.Foreign, after.Foreign))
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := w.Remove(t.Context(), s); err != nil {
		t.Error(err)
	}
}

// lasting leaves out what kube-proxy has or has not by its own timing: the rule on the range
// of cluster IPs comes with the first change after it has heard of that range; in ipvs mode,
// node ports are served on our addresses if those were there when it last changed anything.
func lasting(proxy string) string {
	var b strings.Builder
	for line := range strings.Lines(proxy) {
		if strings.Contains(line, "Drop traffic to unallocated ClusterIPs") {
			continue
		}
		if f := strings.Fields(line); len(f) > 2 && (f[0] == "-A" || f[0] == "-a") {
			if ap, err := netip.ParseAddrPort(f[2]); err == nil && inPool(ap.Addr()) {
				continue
			}
		}
		b.WriteString(line)
	}
	return b.String()
}

// settle waits until kube-proxy has done with what came before: it has taken away all of
// every Service that was removed, which it does last, has these, and rests.
func (w *World) settle(t *testing.T, n *rig.Node, there ...*Service) {
	t.Helper()
	var last Kernel
	_, err := harness.Eventually(t.Context(), proxyTimeout, func(ctx context.Context) error {
		if err := harness.Pause(ctx, quiet); err != nil {
			return err
		}
		before := last
		var err error
		if last, err = ReadKernel(ctx, n); err != nil {
			return err
		}
		return errors.Join(w.mentions(ctx, last.Proxy, there), same("what is kube-proxy's", before.Proxy, last.Proxy))
	})
	if err != nil {
		t.Error(err)
	}
}

// mentions says whether what kube-proxy has names the cluster IPs of these Services and of
// none that was removed.
func (w *World) mentions(ctx context.Context, proxy string, there []*Service) error {
	for _, ip := range w.removed {
		if whole(ip).MatchString(proxy) {
			return fmt.Errorf("kube-proxy still has %s, which was a Service's", ip)
		}
	}
	for _, s := range there {
		o, err := w.Rig.Kube().CoreV1().Services(rig.Namespace).Get(ctx, s.Name, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("get %s: %w", s.Name, err)
		}
		if !whole(o.Spec.ClusterIP).MatchString(proxy) {
			return fmt.Errorf("kube-proxy does not have %s of %s", o.Spec.ClusterIP, s.Name)
		}
	}
	return nil
}

// whole matches an address that is no part of a longer one.
func whole(ip string) *regexp.Regexp {
	return regexp.MustCompile(`(^|[^0-9a-f.:])` + regexp.QuoteMeta(ip) + `($|[^0-9a-f])`)
}

// removeServers leaves kube-proxy's alone, which it would miss for half a minute.
func removeServers(ctx context.Context, n *rig.Node, to netip.Addr) error {
	at := netip.AddrPortFrom(to, servicePort).String()
	return errors.Join(run(ctx, n, "ipvsadm", "-D", "-t", at), run(ctx, n, "ipvsadm", "-D", "-u", at))
}

func deleteTables(ctx context.Context, n *rig.Node) error {
	list, err := OnNode(ctx, n, "nft", "list", "tables")
	if err != nil {
		return err
	}
	found := 0
	for line := range strings.Lines(list) {
		f := strings.Fields(line)
		if len(f) == 3 && f[2] == "fairlead" {
			found++
			if err := run(ctx, n, "nft", "delete", "table", f[1], f[2]); err != nil {
				return err
			}
		}
	}
	if found == 0 {
		return fmt.Errorf("no table of ours among\n%s", list)
	}
	return nil
}

// klogTime is how klog writes a time, after a letter.
const klogTime = "0102 15:04:05.000000"

// putBack is how the agent says that it repairs something.
var putBack = regexp.MustCompile(`put it back" .*what="([a-z-]+)"`)

// repairs reads what the agent has logged since a moment, and when after it the agent put
// something back, by its own clock, which no measuring program slows down.
func repairs(t *testing.T, n *rig.Node, since time.Time) (log, back string) {
	t.Helper()
	log, err := logSince(n, since)
	if err != nil {
		t.Error(err)
	}
	var at []string
	for line := range strings.Lines(log) {
		when, err := time.ParseInLocation(klogTime, line[1:len(klogTime)+1], time.Local)
		if m := putBack.FindStringSubmatch(line); m != nil && err == nil {
			after := when.AddDate(since.Year(), 0, 0).Sub(since)
			at = append(at, fmt.Sprintf("%s %s after the break began", m[1], after.Round(time.Millisecond)))
		}
	}
	if len(at) == 0 {
		return log, "nothing"
	}
	return log, strings.Join(at, ", ")
}

// logSince is what a node's agent has written since then.
func logSince(n *rig.Node, then time.Time) (string, error) {
	b, err := os.ReadFile(n.LogFile())
	var text strings.Builder
	for line := range strings.Lines(string(b)) {
		if len(line) > len(klogTime) && line[1:len(klogTime)+1] >= then.Format(klogTime) {
			text.WriteString(line)
		}
	}
	return text.String(), err
}

func run(ctx context.Context, n *rig.Node, name string, args ...string) error {
	_, err := OnNode(ctx, n, name, args...)
	return err
}

// serve creates a Service and waits until it is served and announced.
func (w *World) serve(t *testing.T, s *Service) netip.Addr {
	t.Helper()
	if err := w.Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	addresses, err := w.Served(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Owner(t.Context(), addresses[s]); err != nil {
		t.Fatal(err)
	}
	return addresses[s]
}

func readKernel(t *testing.T, n *rig.Node) Kernel {
	t.Helper()
	k, err := ReadKernel(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func pause(t *testing.T, d time.Duration) {
	t.Helper()
	if err := harness.Pause(t.Context(), d); err != nil {
		t.Fatal(err)
	}
}

// same says what differs. The order of lines and of a set's elements is the kernel's choice.
func same(what, before, after string) error {
	count := map[string]int{}
	for i, text := range []string{before, after} {
		n := 2*i - 1
		for _, part := range strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == ',' }) {
			// A set's first and last element have its brackets with them.
			part = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(part), "elements = { "), " }")
			count[strings.TrimSpace(part)] += n
		}
	}
	var b strings.Builder
	for part, n := range count {
		if n != 0 {
			fmt.Fprintf(&b, "%+d %s\n", n, part)
		}
	}
	if b.Len() == 0 {
		return nil
	}
	return fmt.Errorf("%s has changed:\n%s", what, b.String())
}
