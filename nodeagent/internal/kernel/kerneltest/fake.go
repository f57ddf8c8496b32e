// SPDX-License-Identifier: Apache-2.0

package kerneltest

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// Op is one operation on the kernel: one request, for reading or for writing.
type Op struct {
	// N counts from 1 since the fake was made, or since [Fake.Reset].
	N int
	// Name is that of the method: AddServer, RemoveVIP ….
	Name string
	// Server and Real are the keys that it is about, Addr the address, Setting the name;
	// zero where the operation has none.
	Server  loadbalancer.VirtualServerKey
	Real    loadbalancer.RealServerKey
	Addr    netip.Addr
	Setting string
}

// String tells an operation apart in a failed test.
func (o Op) String() string {
	s := fmt.Sprintf("%d %s", o.N, o.Name)
	switch {
	case o.Server.Mark != 0:
		s += fmt.Sprintf(" mark %#x", o.Server.Mark)
	case o.Server.Addr.IsValid():
		s += fmt.Sprintf(" %s/%s", netip.AddrPortFrom(o.Server.Addr, o.Server.Port), o.Server.Protocol)
	case o.Addr.IsValid():
		s += " " + o.Addr.String()
	}
	if o.Real.Addr.IsValid() {
		s += " → " + netip.AddrPortFrom(o.Real.Addr, o.Real.Port).String()
	}
	if o.Setting != "" {
		s += " " + o.Setting
	}
	return s
}

// Writes says whether the operation changes something.
func (o Op) Writes() bool {
	switch o.Name {
	case "List", "Reals", "Has", "HasVIP", "LocalAddrs", "NFTGeneration", "ConnTableSize", "VIPLink", "LinkNames", "Sysctl":
		return false
	default:
		return true
	}
}

// ErrInjected is what [FailAt] and [CrashAt] inject.
var ErrInjected = errors.New("injected")

// lateError is a failure that the caller sees although the operation was done: the reply
// was lost.
type lateError struct{ error }

// Unwrap returns the error itself.
func (e lateError) Unwrap() error { return e.error }

// Late makes of the error of a fault one that comes after the operation was done.
func Late(err error) error { return lateError{err} }

// FailAt is a fault for [Fake.Fault]: operation n fails, once.
func FailAt(n int) func(Op) error {
	return func(o Op) error {
		if o.N == n {
			return ErrInjected
		}
		return nil
	}
}

// CrashAt is a fault for [Fake.Fault]: operation n and all later ones fail, as if whoever
// asks had died before n.
func CrashAt(n int) func(Op) error {
	return func(o Op) error {
		if o.N >= n {
			return ErrInjected
		}
		return nil
	}
}

// Fake has the methods of [kernel.IPVS] and those of [kernel.Kernel] that the data plane
// uses. It is safe for concurrent use.
type Fake struct {
	mu    sync.Mutex
	fault func(Op) error
	ops   []Op
	// A virtual server's real servers are in the order in which they were added.
	servers map[loadbalancer.VirtualServerKey]*kernel.ServerState
	// schedulers that the kernel has.
	schedulers map[string]struct{}
	settings   map[string]string
	links      []string
	link       bool
	vips       map[netip.Addr]struct{}
	addrs      []netip.Addr
	generation uint32
}

// New returns a kernel with IPVS, all of its schedulers and its settings as they are by
// default, and without virtual servers and our link.
func New() *Fake {
	f := &Fake{
		servers: make(map[loadbalancer.VirtualServerKey]*kernel.ServerState), schedulers: make(map[string]struct{}),
		vips: make(map[netip.Addr]struct{}), links: []string{"eth0", "lo"},
		settings: map[string]string{
			"net/ipv4/vs/conntrack": "0", "net/ipv4/vs/expire_nodest_conn": "0",
			"net/ipv4/vs/expire_quiescent_template": "0", "net/ipv4/vs/sloppy_tcp": "0", "net/ipv4/ip_forward": "1",
		},
	}
	for _, s := range []string{"rr", "wrr", "lc", "wlc", "fo", "ovf", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq"} {
		f.schedulers[s] = struct{}{}
	}
	return f
}

// Fault has f asked before each operation from now on: where it returns an error, the
// operation fails with it and does nothing, but for one of [Late]. nil: none fails.
func (f *Fake) Fault(fault func(Op) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = fault
}

// Ops are the operations since the beginning or the last [Fake.Reset], failed ones included.
func (f *Fake) Ops() []Op {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.ops)
}

// Reset forgets the operations so far.
func (f *Fake) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ops = nil
}

// do is one operation, of which act is what it does.
func (f *Fake) do(o Op, act func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	o.N = len(f.ops) + 1
	f.ops = append(f.ops, o)
	var fault error
	if f.fault != nil {
		fault = f.fault(o)
	}
	if _, late := errors.AsType[lateError](fault); fault != nil && !late {
		return fmt.Errorf("%s: %w", o, fault)
	}
	if err := act(); err != nil {
		return fmt.Errorf("%s: %w", o, err)
	}
	if fault != nil {
		return fmt.Errorf("%s: %w", o, fault)
	}
	return nil
}

// List is [kernel.IPVS.List], by key.
func (f *Fake) List() ([]kernel.ServerState, error) {
	var out []kernel.ServerState
	err := f.do(Op{Name: "List"}, func() error {
		for _, s := range f.servers {
			c := *s
			c.Reals = slices.Clone(s.Reals)
			slices.Reverse(c.Reals)
			out = append(out, c)
		}
		return nil
	})
	slices.SortFunc(out, func(a, b kernel.ServerState) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Mark, b.Mark))
	})
	return out, err
}

// Reals is [kernel.IPVS.Reals].
func (f *Fake) Reals(key loadbalancer.VirtualServerKey) ([]kernel.RealState, error) {
	var out []kernel.RealState
	err := f.do(Op{Name: "Reals", Server: key}, func() error {
		s, ok := f.servers[key]
		if !ok {
			return kernel.ErrNotFound
		}
		out = slices.Clone(s.Reals)
		slices.Reverse(out)
		return nil
	})
	return out, err
}

// Has is [kernel.IPVS.Has].
func (f *Fake) Has(key loadbalancer.VirtualServerKey) (bool, error) {
	found := false
	err := f.do(Op{Name: "Has", Server: key}, func() error {
		_, found = f.servers[key]
		return nil
	})
	return found, err
}

// ConnTableSize is [kernel.IPVS.ConnTableSize].
func (f *Fake) ConnTableSize() (int, error) {
	return 4096, f.do(Op{Name: "ConnTableSize"}, func() error { return nil })
}

// Requests is [kernel.IPVS.Requests].
func (f *Fake) Requests() uint64 { return uint64(len(f.Ops())) }

// Close is [kernel.IPVS.Close].
func (*Fake) Close() {}

// AddServer is [kernel.IPVS.AddServer].
func (f *Fake) AddServer(v loadbalancer.VirtualServer) error {
	return f.do(Op{Name: "AddServer", Server: v.VirtualServerKey}, func() error {
		if _, ok := f.schedulers[v.Scheduler]; !ok {
			return kernel.ErrNoScheduler
		}
		if _, ok := f.servers[v.VirtualServerKey]; ok {
			return kernel.ErrExists
		}
		f.servers[v.VirtualServerKey] = &kernel.ServerState{VirtualServer: bare(v)}
		return nil
	})
}

// UpdateServer is [kernel.IPVS.UpdateServer].
func (f *Fake) UpdateServer(v loadbalancer.VirtualServer) error {
	return f.do(Op{Name: "UpdateServer", Server: v.VirtualServerKey}, func() error {
		s, ok := f.servers[v.VirtualServerKey]
		if !ok {
			return kernel.ErrNotFound
		}
		if _, ok := f.schedulers[v.Scheduler]; !ok {
			return kernel.ErrNoScheduler
		}
		s.VirtualServer, s.Odd = bare(v), false
		return nil
	})
}

// bare is what the kernel keeps of a virtual server.
func bare(v loadbalancer.VirtualServer) loadbalancer.VirtualServer {
	v.Service, v.Reals, v.Affinity = loadbalancer.ServiceKey{}, nil, v.Affinity.Truncate(time.Second)
	return v
}

// DeleteServer is [kernel.IPVS.DeleteServer].
func (f *Fake) DeleteServer(key loadbalancer.VirtualServerKey) error {
	return f.do(Op{Name: "DeleteServer", Server: key}, func() error {
		if _, ok := f.servers[key]; !ok {
			return kernel.ErrNotFound
		}
		delete(f.servers, key)
		return nil
	})
}

// AddReal is [kernel.IPVS.AddReal].
func (f *Fake) AddReal(key loadbalancer.VirtualServerKey, r loadbalancer.RealServer) error {
	return f.do(Op{Name: "AddReal", Server: key, Real: r.RealServerKey}, func() error {
		s, i, err := f.find(key, r.RealServerKey)
		if err != nil {
			return err
		}
		if i >= 0 {
			return kernel.ErrExists
		}
		if r.Addr.Is4() != key.Addr.Is4() {
			return errors.New("the families of virtual and real server differ")
		}
		s.Reals = append(s.Reals, kernel.RealState{RealServer: r})
		return nil
	})
}

// UpdateReal is [kernel.IPVS.UpdateReal].
func (f *Fake) UpdateReal(key loadbalancer.VirtualServerKey, r loadbalancer.RealServer) error {
	return f.do(Op{Name: "UpdateReal", Server: key, Real: r.RealServerKey}, func() error {
		s, i, err := f.find(key, r.RealServerKey)
		if err != nil {
			return err
		}
		if i < 0 {
			return kernel.ErrNotFound
		}
		s.Reals[i].Weight, s.Reals[i].Odd = r.Weight, false
		return nil
	})
}

// DeleteReal is [kernel.IPVS.DeleteReal].
func (f *Fake) DeleteReal(key loadbalancer.VirtualServerKey, r loadbalancer.RealServerKey) error {
	return f.do(Op{Name: "DeleteReal", Server: key, Real: r}, func() error {
		s, i, err := f.find(key, r)
		if err != nil {
			return err
		}
		if i < 0 {
			return kernel.ErrNotFound
		}
		s.Reals = slices.Delete(s.Reals, i, i+1)
		return nil
	})
}

// find returns a real server's place; -1 if the virtual server has no such.
func (f *Fake) find(key loadbalancer.VirtualServerKey, r loadbalancer.RealServerKey) (*kernel.ServerState, int, error) {
	s, ok := f.servers[key]
	if !ok {
		return nil, -1, kernel.ErrNotFound
	}
	return s, slices.IndexFunc(s.Reals, func(s kernel.RealState) bool { return s.RealServerKey == r }), nil
}

// VIPLink is [kernel.Kernel.VIPLink].
func (f *Fake) VIPLink() ([]netip.Addr, bool, error) {
	var out []netip.Addr
	var exists bool
	err := f.do(Op{Name: "VIPLink"}, func() error {
		out, exists = slices.SortedFunc(maps.Keys(f.vips), netip.Addr.Compare), f.link
		return nil
	})
	return out, exists, err
}

// EnsureVIPLink is [kernel.Kernel.EnsureVIPLink].
func (f *Fake) EnsureVIPLink() error {
	return f.do(Op{Name: "EnsureVIPLink"}, func() error {
		f.link = true
		return nil
	})
}

// DeleteVIPLink is [kernel.Kernel.DeleteVIPLink].
func (f *Fake) DeleteVIPLink() error {
	return f.do(Op{Name: "DeleteVIPLink"}, func() error {
		f.link = false
		clear(f.vips)
		return nil
	})
}

// AddVIP is [kernel.Kernel.AddVIP].
func (f *Fake) AddVIP(addr netip.Addr) error {
	return f.do(Op{Name: "AddVIP", Addr: addr}, func() error {
		if !f.link {
			return kernel.ErrNotFound
		}
		f.vips[addr] = struct{}{}
		return nil
	})
}

// RemoveVIP is [kernel.Kernel.RemoveVIP].
func (f *Fake) RemoveVIP(addr netip.Addr) error {
	return f.do(Op{Name: "RemoveVIP", Addr: addr}, func() error {
		delete(f.vips, addr)
		return nil
	})
}

// HasVIP is [kernel.Kernel.HasVIP].
func (f *Fake) HasVIP(addr netip.Addr) (bool, error) {
	found := false
	err := f.do(Op{Name: "HasVIP", Addr: addr}, func() error {
		_, found = f.vips[addr]
		return nil
	})
	return found, err
}

// LocalAddrs is [kernel.Kernel.LocalAddrs].
func (f *Fake) LocalAddrs() ([]netip.Addr, error) {
	var out []netip.Addr
	err := f.do(Op{Name: "LocalAddrs"}, func() error {
		out = slices.Clone(f.addrs)
		return nil
	})
	return out, err
}

// LinkNames is [kernel.Kernel.LinkNames].
func (f *Fake) LinkNames() ([]string, error) {
	var out []string
	err := f.do(Op{Name: "LinkNames"}, func() error {
		out = slices.Clone(f.links)
		if f.link {
			out = append(out, kernel.VIPLinkName)
		}
		slices.Sort(out)
		return nil
	})
	return out, err
}

// NFTGeneration is [kernel.Kernel.NFTGeneration].
func (f *Fake) NFTGeneration() (uint32, error) {
	var out uint32
	err := f.do(Op{Name: "NFTGeneration"}, func() error {
		out = f.generation
		return nil
	})
	return out, err
}

// Sysctl is [kernel.Kernel.Sysctl].
func (f *Fake) Sysctl(name string) (string, error) {
	var out string
	err := f.do(Op{Name: "Sysctl", Setting: name}, func() error {
		var ok bool
		if out, ok = f.settings[name]; !ok {
			return kernel.ErrNotFound
		}
		return nil
	})
	return out, err
}

// SetSysctl is [kernel.Kernel.SetSysctl].
func (f *Fake) SetSysctl(name, value string) error {
	return f.do(Op{Name: "SetSysctl", Setting: name}, func() error {
		if _, ok := f.settings[name]; !ok {
			return kernel.ErrNotFound
		}
		f.settings[name] = value
		return nil
	})
}
