// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	viplink "github.com/fairlead-lb/fairlead/nodeagent/internal/vip"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/virtualserver"
)

// The parts of the data plane by name, for the metric of repairs.
const (
	partServers = "virtual-servers"
	partVIPs    = "addresses"
	partGuard   = "guard"
	partSysctls = "sysctls"
)

// apply makes the kernel match. What is new is there before the guard takes packets from
// kube-proxy, in one transaction, and what goes stays until the guard has given them back,
// so that a connection finds either of them at every moment. Whoever dies between two steps
// leaves what the next run finds by the guard and by the link, and mends.
func (f *forwarder) apply(ctx context.Context, want loadbalancer.Forwarding) error {
	before, err := f.plane.adopt(ctx)
	if err != nil {
		return err
	}
	changed := !f.programmed || !slices.EqualFunc(f.last.VirtualServers, want.VirtualServers, sameServerKey)
	if changed {
		if err := f.transact(func() error { return f.plane.guard.Prepare(ctx, want) }); err != nil {
			return err
		}
	}
	if !f.programmed && !f.released && len(before.vips)+len(before.served) > 0 {
		if err := f.setGuard(ctx, before.still(want)); err != nil {
			return err
		}
	}
	f.released = true
	both, gone := joined(f.last, want)
	f.last = both
	if err := f.setServers(ctx, both); err != nil {
		return err
	}
	if err := f.setVIPs(ctx, both.VIPs); err != nil {
		return err
	}
	f.have = f.served(want)
	if err := f.setGuard(ctx, f.have); err != nil {
		return err
	}
	if gone {
		if err := f.setVIPs(ctx, want.VIPs); err != nil {
			return err
		}
		if err := f.setServers(ctx, want); err != nil {
			return err
		}
		f.last = want
	}
	if changed {
		return f.transact(func() error { return f.plane.guard.Settle(ctx) })
	}
	return nil
}

func sameServerKey(a, b loadbalancer.VirtualServer) bool {
	return a.VirtualServerKey == b.VirtualServerKey
}

func (f *forwarder) setServers(ctx context.Context, want loadbalancer.Forwarding) error {
	result, err := f.plane.servers.Apply(ctx, want)
	if err != nil {
		return fmt.Errorf("program virtual servers: %w", err)
	}
	f.noteRefused(ctx, result)
	return nil
}

func (f *forwarder) setVIPs(ctx context.Context, want []netip.Addr) error {
	result, err := f.plane.vips.Apply(ctx, want)
	if err != nil {
		return fmt.Errorf("bind addresses: %w", err)
	}
	f.noteUnbound(ctx, result)
	return nil
}

// setGuard applies what it does not have, which for a change of backends is mostly nothing.
func (f *forwarder) setGuard(ctx context.Context, to loadbalancer.Forwarding) error {
	to.VirtualServers = foreignServers(to)
	if f.guardKnown && equalForwarding(f.guarded, to) {
		return nil
	}
	f.guardKnown = false
	if err := f.transact(func() error { return f.plane.guard.Apply(ctx, to) }); err != nil {
		return err
	}
	f.guarded, f.guardKnown = to, true
	return nil
}

// foreignServers are all of the virtual servers that the guard goes by: those on addresses
// that are not ours alone.
func foreignServers(f loadbalancer.Forwarding) []loadbalancer.VirtualServer {
	var foreign []netip.Addr
	for i := range f.Served {
		if n := len(foreign); f.Served[i].Foreign && (n == 0 || foreign[n-1] != f.Served[i].Addr) {
			foreign = append(foreign, f.Served[i].Addr)
		}
	}
	if len(foreign) == 0 {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(f.VirtualServers), func(v loadbalancer.VirtualServer) bool { return !contains(foreign, v.Addr) })
}

// transact changes the guard. If that was the only change of nftables since it was last
// intact, it still is.
func (f *forwarder) transact(change func() error) error {
	before, err := f.plane.generation()
	intact := err == nil && before != 0 && before == f.generation
	f.generation = 0
	if err := change(); err != nil {
		return err
	}
	if after, err := f.plane.generation(); err == nil && intact && after-before <= 1 {
		f.generation = after
	}
	return nil
}

// guardIntact says whether nobody changed the guard. To look at it costs a run of nft and
// more the more it holds, and nothing while nobody changes anything.
func (f *forwarder) guardIntact(ctx context.Context) (bool, error) {
	now, err := f.plane.generation()
	if err == nil && now != 0 && now == f.generation {
		return true, nil
	}
	intact, checkErr := f.plane.guard.Check(ctx)
	f.generation = 0
	if checkErr == nil && intact && err == nil && !f.plane.guard.Partial() {
		f.generation = now
	}
	return intact, checkErr //nolint:wrapcheck // says what failed
}

// noteRefused logs what the kernel refuses, once each.
func (f *forwarder) noteRefused(ctx context.Context, r virtualserver.Result) {
	for _, no := range r.Refused {
		if !slices.ContainsFunc(f.refused, func(o virtualserver.Refusal) bool { return o.Key == no.Key && o.Err.Error() == no.Err.Error() }) {
			klog.FromContext(ctx).Error(no.Err, "The kernel refuses a virtual server", "leftToKubeProxy", !no.Serves,
				"service", no.Service, "address", no.Key.Addr, "protocol", no.Key.Protocol, "port", no.Key.Port, "mark", no.Key.Mark)
		}
	}
	f.refused = r.Refused
}

func (f *forwarder) noteUnbound(ctx context.Context, r viplink.Result) {
	for a, err := range r.Refused {
		if before := f.unbound[a]; before == nil || before.Error() != err.Error() {
			klog.FromContext(ctx).Error(err, "Cannot bind the address of a Service; it is left to kube-proxy", "address", a)
		}
	}
	f.unbound = maps.Clone(r.Refused)
}

// repair puts back what others removed. The guard comes last: to look at it means to wait for
// whoever else changes nftables, such as a kube-proxy that starts and has just emptied IPVS.
func (f *forwarder) repair(ctx context.Context) error {
	result, err := f.plane.servers.Check(ctx)
	f.repaired(ctx, partServers, result.Repaired)
	if result.Expiring {
		f.repaired(ctx, partSysctls, 1)
	}
	if err == nil {
		f.noteRefused(ctx, result)
	}
	bound, vipErr := f.plane.vips.Check(ctx)
	f.repaired(ctx, partVIPs, bound.Repaired)
	if vipErr == nil {
		f.noteUnbound(ctx, bound)
	}
	return errors.Join(err, vipErr, f.repairGuard(ctx))
}

// checkTimeout bounds a look at the guard.
const checkTimeout = 5 * time.Second

// repairGuard puts our nftables table back. What the loop wants meanwhile, such as nothing
// more for a dead node, ends the look, but not two in a row; that the agent leaves ends any.
func (f *forwarder) repairGuard(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	f.mayInterrupt(cancel)
	intact, err := f.guardIntact(bounded)
	f.mayInterrupt(nil)
	f.interrupted = err != nil && ctx.Err() == nil && errors.Is(bounded.Err(), context.Canceled)
	if err != nil && ctx.Err() == nil && bounded.Err() != nil {
		klog.FromContext(ctx).V(2).Info("Cannot look at our nftables table in time", "cause", err.Error())
		return nil // it is looked at again
	}
	if err != nil || intact {
		return err
	}
	f.repaired(ctx, partGuard, 1)
	f.guardKnown = false
	if err := f.setGuard(ctx, f.have); err != nil {
		return err
	}
	f.forgetHalfOpen(ctx)
	return nil
}

// mayInterrupt tells how to end the look that begins, or that it is over.
func (f *forwarder) mayInterrupt(by context.CancelFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.interrupt, f.insists = by, f.interrupted
	if by != nil && f.leaving != nil {
		by()
	}
}

// forgetHalfOpen gives connections that were begun without the guard another chance: without
// its masquerade the answer does not pass here, now or at any repetition.
func (f *forwarder) forgetHalfOpen(ctx context.Context) {
	if n, err := f.plane.forget(f.have.VIPs); err != nil {
		klog.FromContext(ctx).Error(err, "Cannot forget connections that were begun without the guard")
	} else if n > 0 {
		klog.FromContext(ctx).Info("Forgot connections that were begun without the guard", "count", n)
	}
}

func (f *forwarder) repaired(ctx context.Context, part string, count int) {
	if count > 0 {
		f.metrics.Repaired(part)
		klog.FromContext(ctx).Info("Somebody changed the data plane; put it back", "what", part, "count", count)
	}
}

// remove gives everything back to kube-proxy: the guard lets go of the packets first. It
// stops at the first error, because what is left then still works.
func (f *forwarder) remove(ctx context.Context) error {
	if f.plane == nil {
		left, err := f.d.left(ctx)
		if err != nil || !left {
			return err
		}
		if f.plane, err = f.d.open(ctx); err != nil {
			return err
		}
		defer f.closePlane()
	}
	if _, err := f.plane.adopt(ctx); err != nil {
		return err
	}
	// What it served it still names, for the next run, should there be one.
	if err := f.setGuard(ctx, loadbalancer.Forwarding{}); err != nil {
		return err
	}
	if err := f.plane.servers.Remove(ctx); err != nil {
		return fmt.Errorf("remove virtual servers: %w", err)
	}
	if err := f.plane.vips.Remove(ctx); err != nil {
		return fmt.Errorf("remove addresses: %w", err)
	}
	f.guardKnown = false
	if err := f.plane.guard.Remove(ctx); err != nil {
		return err //nolint:wrapcheck // says what failed
	}
	f.last = loadbalancer.Forwarding{}
	f.have, f.done, f.programmed, f.refused, f.unbound, f.err = loadbalancer.Forwarding{}, wanted{}, false, nil, nil, nil
	return nil
}

// still is what of a plan an earlier run forwards already: the rest is kube-proxy's until it
// is programmed, and what is not in the plan is at once.
func (e earlier) still(want loadbalancer.Forwarding) loadbalancer.Forwarding {
	out := want
	out.VIPs, out.Served = nil, nil
	more := make(map[netip.Addr]struct{})
	for _, s := range want.Served {
		_, served := e.served[servedKey(s)]
		if served && (contains(e.vips, s.Addr) || !contains(want.VIPs, s.Addr)) {
			out.Served = append(out.Served, s)
		} else if s.Foreign {
			more[s.Addr] = struct{}{}
		}
	}
	for _, a := range want.VIPs {
		if _, shared := more[a]; !shared && contains(e.vips, a) {
			out.VIPs = append(out.VIPs, a)
		}
	}
	return out
}

// joined is a plan with what the one before had and it has not: gone says that there is any.
func joined(have, want loadbalancer.Forwarding) (both loadbalancer.Forwarding, gone bool) {
	both = want
	both.VIPs = union(have.VIPs, want.VIPs)
	wanted := make(map[loadbalancer.VirtualServerKey]struct{}, len(want.VirtualServers))
	for i := range want.VirtualServers {
		wanted[want.VirtualServers[i].VirtualServerKey] = struct{}{}
	}
	for i := range have.VirtualServers {
		if _, stays := wanted[have.VirtualServers[i].VirtualServerKey]; stays {
			continue
		}
		if !gone {
			both.VirtualServers, gone = slices.Clone(want.VirtualServers), true
		}
		both.VirtualServers = append(both.VirtualServers, have.VirtualServers[i])
	}
	if !gone && len(both.VIPs) == len(want.VIPs) {
		return want, false
	}
	slices.SortFunc(both.VirtualServers, func(a, b loadbalancer.VirtualServer) int {
		return compareServerKeys(a.VirtualServerKey, b.VirtualServerKey)
	})
	served := make(map[loadbalancer.VirtualServerKey]struct{}, len(want.Served))
	for _, s := range want.Served {
		served[servedKey(s)] = struct{}{}
	}
	both.Served = slices.Clone(want.Served)
	for _, s := range have.Served {
		if _, stays := served[servedKey(s)]; !stays {
			both.Served = append(both.Served, s)
		}
	}
	return both, true
}

// compareServerKeys orders as plans do.
func compareServerKeys(a, b loadbalancer.VirtualServerKey) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Mark, b.Mark))
}

func servedKey(s loadbalancer.Served) loadbalancer.VirtualServerKey {
	return loadbalancer.VirtualServerKey{Addr: s.Addr, Protocol: s.Protocol, Port: s.Port}
}

// served is what of a plan is taken from kube-proxy: all but what the kernel refuses. An
// address of which something is refused is kube-proxy's too, so that its other ports are
// not ours to refuse.
func (f *forwarder) served(want loadbalancer.Forwarding) loadbalancer.Forwarding {
	if len(f.refused) == 0 && len(f.unbound) == 0 {
		return want
	}
	refused := make(map[loadbalancer.VirtualServerKey]struct{}, len(f.refused))
	marks := make(map[uint32]struct{}, len(f.refused))
	for _, r := range f.refused {
		if r.Serves {
			continue // It is not all that it should be, and better than nobody.
		}
		refused[r.Key] = struct{}{}
		if r.Key.Mark != 0 {
			marks[r.Key.Mark] = struct{}{}
		}
	}
	out := want
	out.Served = nil
	shared, own := make(map[netip.Addr]struct{}), make(map[netip.Addr]struct{})
	for _, s := range want.Served {
		_, outside := refused[servedKey(s)]
		_, inside := marks[s.Mark]
		if outside || inside || f.unbound[s.Addr] != nil {
			shared[s.Addr] = struct{}{}
			continue
		}
		own[s.Addr] = struct{}{}
		out.Served = append(out.Served, s)
	}
	for i := range out.Served {
		if _, ok := shared[out.Served[i].Addr]; ok {
			out.Served[i].Foreign = true
		}
	}
	out.VIPs = slices.DeleteFunc(slices.Clone(want.VIPs), func(a netip.Addr) bool {
		_, refused := shared[a]
		_, served := own[a]
		return f.unbound[a] != nil || refused && !served
	})
	return out
}

// union of ascending addresses, ascending.
func union(lists ...[]netip.Addr) []netip.Addr {
	set := make(map[netip.Addr]struct{})
	for _, l := range lists {
		for _, a := range l {
			set[a] = struct{}{}
		}
	}
	if len(set) == 0 {
		return nil
	}
	return slices.SortedFunc(maps.Keys(set), netip.Addr.Compare)
}

func contains(sorted []netip.Addr, a netip.Addr) bool {
	_, found := slices.BinarySearchFunc(sorted, a, netip.Addr.Compare)
	return found
}

func equalForwarding(a, b loadbalancer.Forwarding) bool {
	return slices.Equal(a.VIPs, b.VIPs) && slices.Equal(a.InCluster, b.InCluster) && slices.Equal(a.LocalReals, b.LocalReals) &&
		equalSlices(a.Served, b.Served, equalServed) && equalSlices(a.VirtualServers, b.VirtualServers, equalServer)
}

// equalSlices does not look into what is the same slice, as it is where nothing changed.
func equalSlices[T any](a, b []T, equal func(a, b T) bool) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.EqualFunc(a, b, equal))
}

func equalServed(a, b loadbalancer.Served) bool {
	return servedKey(a) == servedKey(b) && a.Mark == b.Mark && a.Masquerade == b.Masquerade && a.Foreign == b.Foreign && slices.Equal(a.Sources, b.Sources)
}

func equalServer(a, b loadbalancer.VirtualServer) bool {
	return a.VirtualServerKey == b.VirtualServerKey && a.Service == b.Service && a.Scheduler == b.Scheduler && a.Flags == b.Flags &&
		a.Affinity == b.Affinity && slices.Equal(a.Reals, b.Reals)
}
