// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// MAC is an Ethernet address.
type MAC [6]byte

// String returns the lower-case, colon-separated form.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// IsGroup says whether it is the address of several hosts, which none has as its own.
func (m MAC) IsGroup() bool { return m[0]&1 != 0 }

// Link is an Ethernet-like link that is up and speaks ARP.
type Link struct {
	Name  string
	Index int
	MAC   MAC
	// Prefixes are the link's own addresses with their length, not masked, sorted.
	// Link-local ones are left out.
	Prefixes []netip.Prefix
	// IPv6 says that the link has any address of that family, link-local ones included: it
	// has none where IPv6 is disabled, and then packets for one are dropped.
	IPv6 bool
	// Lapses counts how often the link was seen to be of no use, since [Kernel.Watch] was
	// called: down, without carrier, or a port of another link. A link that lapsed and is
	// back by the time that it is listed differs in nothing else, but switches and
	// neighbours may have forgotten who is behind it.
	Lapses uint64
}

// Equal says whether nothing of the link changed.
func (l Link) Equal(m Link) bool {
	return l.Name == m.Name && l.Index == m.Index && l.MAC == m.MAC && l.IPv6 == m.IPv6 && l.Lapses == m.Lapses && slices.Equal(l.Prefixes, m.Prefixes)
}

// Kernel is the kernel of one network namespace. It is safe for concurrent use.
type Kernel struct {
	h       *netlink.Handle
	sysctls string

	mu sync.Mutex
	// lapses by index, and those of all links, when the kernel stopped telling.
	lapses    map[int]uint64 // guarded by mu
	allLapses uint64         // guarded by mu
}

// New opens a netlink handle in the current network namespace.
func New(opts ...Option) (*Kernel, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	k := &Kernel{h: h, sysctls: sysctlRoot, lapses: make(map[int]uint64)}
	for _, o := range opts {
		o(k)
	}
	return k, nil
}

// Close releases the handle.
func (k *Kernel) Close() { k.h.Close() }

// Links returns the links that are up with carrier, have an Ethernet address, speak
// ARP, and are neither loopback nor our own dummy nor a port of a bridge, a bond or the like, sorted by name.
// What arrives on a port is the bridge's, which has the addresses: a port that announced
// would tell of an Ethernet address that nobody else uses. Ports of a VRF are no such
// ports: they have addresses of their own. VLANs, bonds and bridges are links as any other.
func (k *Kernel) Links() ([]Link, error) {
	links, err := retry(k.h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	addrs, err := k.addrs(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	byLink, ipv6 := make(map[int][]netip.Prefix), make(map[int]bool)
	for i := range addrs {
		if isIPv6(&addrs[i]) {
			ipv6[addrs[i].LinkIndex] = true
		}
		if p, ok := prefixOf(&addrs[i]); ok {
			byLink[addrs[i].LinkIndex] = append(byLink[addrs[i].LinkIndex], p)
		}
	}
	kinds := make(map[int]string, len(links))
	for _, l := range links {
		kinds[l.Attrs().Index] = l.Type()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []Link
	for _, l := range links {
		a := l.Attrs()
		if !announceable(a, kinds) {
			continue
		}
		prefixes := byLink[a.Index]
		slices.SortFunc(prefixes, comparePrefixes)
		out = append(out, Link{
			Name: a.Name, Index: a.Index, MAC: MAC(a.HardwareAddr), Prefixes: prefixes, IPv6: ipv6[a.Index],
			Lapses: k.lapses[a.Index] + k.allLapses,
		})
	}
	slices.SortFunc(out, func(a, b Link) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// announceable says whether a link can announce; kinds are those of all links by index.
func announceable(a *netlink.LinkAttrs, kinds map[int]string) bool {
	const refuse = unix.IFF_LOOPBACK | unix.IFF_NOARP | unix.IFF_SLAVE
	return a.Name != VIPLinkName && usable(a.RawFlags) && a.RawFlags&refuse == 0 && len(a.HardwareAddr) == len(MAC{}) &&
		(a.MasterIndex == 0 || kinds[a.MasterIndex] == kindVRF)
}

const kindVRF = "vrf"

// usable says whether frames pass a link.
func usable(flags uint32) bool {
	const need = unix.IFF_UP | unix.IFF_RUNNING
	return flags&need == need
}

// noteLapse counts what an update says about a link.
func (k *Kernel) noteLapse(u *netlink.LinkUpdate) {
	a := u.Attrs()
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case u.Header.Type == unix.RTM_DELLINK && u.Family == unix.AF_UNSPEC:
		delete(k.lapses, a.Index) // An index is not used again.
	case !usable(a.RawFlags) || a.MasterIndex != 0 && (a.Slave == nil || a.Slave.SlaveType() != kindVRF):
		k.lapses[a.Index]++
	}
}

// noteAllLapses counts what nobody told of.
func (k *Kernel) noteAllLapses() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.allLapses++
}

func comparePrefixes(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

func isIPv6(a *netlink.Addr) bool {
	if a.IPNet == nil {
		return false
	}
	addr, ok := netip.AddrFromSlice(a.IP)
	return ok && addr.Is6() && !addr.Is4In6()
}

// prefixOf converts an address that peers can reach: link-local ones are left out.
func prefixOf(a *netlink.Addr) (netip.Prefix, bool) {
	if a.IPNet == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(a.IP)
	if !ok || addr.Unmap().IsLinkLocalUnicast() {
		return netip.Prefix{}, false
	}
	ones, _ := a.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones), true
}

// resubscribe is how long to wait before the kernel is asked again to tell of addresses or
// routes.
const resubscribe = time.Second

// linkBuffer is how many bytes of changes of links may wait to be read: a pod makes some ten
// of 4 KiB each, and the default is 208 KiB. It is memory that is used only while they wait.
const linkBuffer = 8 << 20

// Watch calls notify after every change of links, addresses and default routes until
// ctx ends; notify must not block, and is called from several goroutines. Other routes come
// and go by the thousand on nodes that speak BGP: that the kernel stops telling of those,
// because its buffer overflowed, or of addresses, says nothing about links and is mended
// here. It returns an error when the kernel stops telling of links: list again and watch
// again.
func (k *Kernel) Watch(ctx context.Context, notify func()) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		follow(ctx, notify, func(netlink.AddrUpdate) bool { return true },
			func(ch chan netlink.AddrUpdate, done chan struct{}, fail func(error)) error {
				return netlink.AddrSubscribeWithOptions(ch, done, netlink.AddrSubscribeOptions{ErrorCallback: fail})
			})
	})
	wg.Go(func() {
		follow(ctx, notify, func(u netlink.RouteUpdate) bool { return isDefault(&u.Route) },
			func(ch chan netlink.RouteUpdate, done chan struct{}, fail func(error)) error {
				return netlink.RouteSubscribeWithOptions(ch, done, netlink.RouteSubscribeOptions{ErrorCallback: fail})
			})
	})
	return k.watchLinks(ctx, notify)
}

// watchLinks is [Kernel.Watch] of links.
func (k *Kernel) watchLinks(ctx context.Context, notify func()) error {
	done := make(chan struct{})
	defer close(done)
	failed := make(chan error, 1)
	fail := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	links := make(chan netlink.LinkUpdate)
	err := netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{
		ErrorCallback: fail, ReceiveBufferSize: linkBuffer, ReceiveBufferForceSize: true,
	})
	if errors.Is(err, unix.EPERM) { // without NET_ADMIN
		err = netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{ErrorCallback: fail})
	}
	if err != nil {
		return fmt.Errorf("subscribe to netlink: %w", err)
	}
	// The subscription's goroutine blocks on the channel until it is closed.
	defer func() { go drain(links) }()
	klog.FromContext(ctx).V(4).Info("Watching links")
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			k.noteAllLapses()
			return fmt.Errorf("watch netlink: %w", err)
		case u, open := <-links:
			if !open {
				k.noteAllLapses()
				return errors.New("watch netlink: subscription ended")
			}
			k.noteLapse(&u)
		}
		notify()
	}
}

// follow calls notify after each update that matters, and after each time that some may
// have gone untold, until ctx ends.
func follow[T any](ctx context.Context, notify func(), matters func(T) bool, subscribe func(ch chan T, done chan struct{}, fail func(error)) error) {
	logger := klog.FromContext(ctx)
	fail := func(err error) { logger.V(2).Info("The kernel stopped telling of changes", "cause", err.Error()) }
	for {
		updates, done := make(chan T), make(chan struct{})
		if err := subscribe(updates, done, fail); err != nil {
			fail(err)
		} else {
			notify()
			each(ctx, updates, func(u T) {
				if matters(u) {
					notify()
				}
			})
			close(done)
			go drain(updates)
		}
		timer := time.NewTimer(resubscribe)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// each calls f with what comes from ch until it is closed or ctx ends.
func each[T any](ctx context.Context, ch <-chan T, f func(T)) {
	for {
		select {
		case <-ctx.Done():
			return
		case u, open := <-ch:
			if !open {
				return
			}
			f(u)
		}
	}
}

func drain[T any](ch <-chan T) {
	for range ch {
		continue // A sender must not block.
	}
}

// retry repeats a dump that the kernel says was interrupted by a change.
func retry[T any](dump func() ([]T, error)) ([]T, error) {
	var out []T
	var err error
	for range 5 {
		out, err = dump()
		if !errors.Is(err, netlink.ErrDumpInterrupted) && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return out, err
}
