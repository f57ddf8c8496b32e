// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/ipvs"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// What a caller may have to tell apart; all other errors are the kernel's own.
var (
	// ErrNoIPVS says that this kernel has no IPVS, and that none could be loaded.
	ErrNoIPVS = errors.New("the kernel has no ip_vs")
	// ErrExists says that what was to be added is there.
	ErrExists = errors.New("exists already")
	// ErrNotFound says that what was to be read, changed or removed is not there, or not
	// that which it belongs to.
	ErrNotFound = errors.New("not found")
	// ErrNoScheduler says that the kernel has no scheduler of that name.
	ErrNoScheduler = errors.New("the kernel has no such scheduler")
)

var errFamily = errors.New("the IP families of virtual and real server differ")

// Flags of a virtual server that linux/ip_vs.h has beside the schedulers' own.
const (
	svcPersistent  = 0x0001
	svcHashed      = 0x0002 // the kernel's own
	schedulerFlags = 0x0038
)

// maskIPv4 and maskIPv6 are the netmask of persistence: each client for itself.
const (
	maskIPv4 = math.MaxUint32
	maskIPv6 = 128
)

// IPVS is the table of virtual servers of one network namespace. It is safe for concurrent
// use. All of it needs CAP_NET_ADMIN.
//
// It writes by moby/ipvs and reads by its own: that library has 32-bit counters only, which
// wrap, cuts weights to 16 bits, takes every failure to find a virtual server for its
// absence, and does not say how persistent connections are counted.
type IPVS struct {
	mu      sync.Mutex // moby's handle has one socket and no lock
	handle  *ipvs.Handle
	reader  *genl
	written atomic.Uint64
	read    atomic.Uint64
}

// OpenIPVS opens the table of the network namespace of the calling thread. The kernel loads
// ip_vs for it where it can; where it cannot, the error is [ErrNoIPVS].
func OpenIPVS() (*IPVS, error) {
	i := &IPVS{}
	reader, err := openGenl("IPVS", &i.read)
	if errors.Is(err, unix.ENOENT) {
		return nil, ErrNoIPVS
	}
	if err != nil {
		return nil, err
	}
	// The library runs modprobe when it is first used, and logs that it failed. The module
	// is there by now, or we would not be here: in an image without modprobe the message
	// would send people after a fault that there is not.
	out := logrus.StandardLogger().Out
	logrus.SetOutput(io.Discard)
	handle, err := ipvs.New("")
	logrus.SetOutput(out)
	if err != nil {
		reader.close()
		return nil, fmt.Errorf("open ipvs: %w", err)
	}
	i.reader, i.handle = reader, handle
	return i, nil
}

// Close releases the sockets; it changes nothing in the kernel.
func (i *IPVS) Close() {
	i.handle.Close()
	i.reader.close()
}

// Requests is how many netlink requests were sent so far. The kernel answers each with one
// message, or, for a dump, with some.
func (i *IPVS) Requests() uint64 { return i.written.Load() + i.read.Load() }

// AddServer adds a virtual server without real servers. The error is [ErrExists] where
// there is one of that key, [ErrNoScheduler] where the kernel cannot schedule so.
func (i *IPVS) AddServer(v loadbalancer.VirtualServer) error {
	return i.write("add", v.VirtualServerKey, func(h *ipvs.Handle) error {
		return noScheduler(h.NewService(service(v)), v.Scheduler)
	})
}

// UpdateServer changes scheduler, flags and affinity of a virtual server; its real servers
// and connections stay. The error is [ErrNotFound] where there is none of that key.
func (i *IPVS) UpdateServer(v loadbalancer.VirtualServer) error {
	return i.write("update", v.VirtualServerKey, func(h *ipvs.Handle) error {
		return noScheduler(h.UpdateService(service(v)), v.Scheduler)
	})
}

// DeleteServer deletes a virtual server and its real servers. Connections go on, if
// net/ipv4/vs/expire_nodest_conn is 0. The error is [ErrNotFound] where there is none.
func (i *IPVS) DeleteServer(key loadbalancer.VirtualServerKey) error {
	return i.write("delete", key, func(h *ipvs.Handle) error {
		return h.DelService(service(loadbalancer.VirtualServer{VirtualServerKey: key}))
	})
}

// AddReal adds a real server, masqueraded, to a virtual server. The error is [ErrExists]
// where it has it, [ErrNotFound] where there is no such virtual server. One that was deleted
// and still has connections comes back with them, also in a virtual server made anew.
func (i *IPVS) AddReal(key loadbalancer.VirtualServerKey, r loadbalancer.RealServer) error {
	return i.writeReal("add", key, r, (*ipvs.Handle).NewDestination)
}

// UpdateReal changes the weight of a real server; its connections stay. The error is
// [ErrNotFound] where there is no such real or virtual server.
func (i *IPVS) UpdateReal(key loadbalancer.VirtualServerKey, r loadbalancer.RealServer) error {
	return i.writeReal("update", key, r, (*ipvs.Handle).UpdateDestination)
}

// DeleteReal deletes a real server. What becomes of its connections is as with
// [IPVS.DeleteServer]. The error is [ErrNotFound] where there is no such real or virtual
// server.
func (i *IPVS) DeleteReal(key loadbalancer.VirtualServerKey, r loadbalancer.RealServerKey) error {
	return i.writeReal("delete", key, loadbalancer.RealServer{RealServerKey: r}, (*ipvs.Handle).DelDestination)
}

func (i *IPVS) writeReal(verb string, key loadbalancer.VirtualServerKey, r loadbalancer.RealServer,
	do func(*ipvs.Handle, *ipvs.Service, *ipvs.Destination) error,
) error {
	err := i.write(verb, key, func(h *ipvs.Handle) error {
		if r.Addr.Is4() != key.Addr.Is4() { // the kernel would cut the address
			return errFamily
		}
		return do(h, service(loadbalancer.VirtualServer{VirtualServerKey: key}), destination(r))
	})
	if err != nil {
		return fmt.Errorf("real server %s: %w", netip.AddrPortFrom(r.Addr, r.Port), err)
	}
	return nil
}

// write sends one request.
func (i *IPVS) write(verb string, key loadbalancer.VirtualServerKey, do func(*ipvs.Handle) error) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.written.Add(1)
	if err := do(i.handle); err != nil {
		return fmt.Errorf("%s at virtual server %s: %w", verb, name(key), typed(err))
	}
	return nil
}

// typed translates the kernel's numbers: of a virtual server that is not there it says
// ESRCH, of a real server ENOENT.
func typed(err error) error {
	switch {
	case errors.Is(err, unix.ESRCH), errors.Is(err, unix.ENOENT):
		return ErrNotFound
	case errors.Is(err, unix.EEXIST):
		return ErrExists
	default:
		return err
	}
}

// noScheduler reads what the kernel says of a virtual server as a whole, where ENOENT
// means its scheduler.
func noScheduler(err error, scheduler string) error {
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%w: %s", ErrNoScheduler, scheduler)
	}
	return err
}

// name is a virtual server's for people.
func name(key loadbalancer.VirtualServerKey) string {
	if key.Mark != 0 {
		return fmt.Sprintf("of mark %#x, %s", key.Mark, familyName(key.Addr))
	}
	return netip.AddrPortFrom(key.Addr, key.Port).String() + "/" + key.Protocol.String()
}

func familyName(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// service is a virtual server as the library wants it.
func service(v loadbalancer.VirtualServer) *ipvs.Service {
	s := &ipvs.Service{AddressFamily: unix.AF_INET6, Netmask: maskIPv6, SchedName: v.Scheduler, Flags: uint32(v.Flags)}
	if v.Addr.Is4() {
		s.AddressFamily, s.Netmask = unix.AF_INET, maskIPv4
	}
	if v.Mark != 0 {
		s.FWMark = v.Mark
	} else {
		s.Address, s.Protocol, s.Port = v.Addr.AsSlice(), uint16(v.Protocol), v.Port
	}
	if v.Affinity > 0 {
		s.Flags |= svcPersistent
		s.Timeout = uint32(v.Affinity / time.Second) //nolint:gosec // a day at most
	}
	return s
}

// destination is a real server as the library wants it.
func destination(r loadbalancer.RealServer) *ipvs.Destination {
	return &ipvs.Destination{
		Address: r.Addr.AsSlice(), Port: r.Port, Weight: int(min(r.Weight, math.MaxInt32)),
		ConnectionFlags: ipvs.ConnectionFlagMasq,
	}
}
