// SPDX-License-Identifier: Apache-2.0

package kerneltest

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// What others do to the kernel: no operations of those who are tested, and no fault
// comes between.

// Flush empties the table of virtual servers, as a start of kube-proxy may.
func (f *Fake) Flush() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.servers)
}

// Put adds or replaces a virtual server as it is, with counters, connections and all.
func (f *Fake) Put(s kernel.ServerState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.Reals = slices.Clone(s.Reals)
	slices.Reverse(s.Reals)
	f.servers[s.VirtualServerKey] = &s
}

// Take removes a virtual server if it is there.
func (f *Fake) Take(key loadbalancer.VirtualServerKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.servers, key)
}

// Connect sets how many connections a real server has. It returns an error where there is
// no such.
func (f *Fake) Connect(key loadbalancer.VirtualServerKey, r loadbalancer.RealServerKey, active, inactive uint32) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, i, err := f.find(key, r)
	if err != nil {
		return err
	}
	if i < 0 {
		return fmt.Errorf("real server %v: %w", r, kernel.ErrNotFound)
	}
	s.Reals[i].Active, s.Reals[i].Inactive = active, inactive
	return nil
}

// DropLink deletes our link with its addresses.
func (f *Fake) DropLink() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.link = false
	clear(f.vips)
}

// SetLinks replaces the names of all links but ours.
func (f *Fake) SetLinks(names ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.links = slices.Clone(names)
}

// SetAddrs replaces the addresses of other links.
func (f *Fake) SetAddrs(addrs ...netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.addrs = slices.SortedFunc(slices.Values(addrs), netip.Addr.Compare)
}

// ChangeNFT is a transaction of nftables.
func (f *Fake) ChangeNFT() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.generation++
}

// Settle sets a setting, whether the kernel had it or not.
func (f *Fake) Settle(name, value string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.settings[name] = value
}

// Setting is a setting as it is, empty if there is none.
func (f *Fake) Setting(name string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.settings[name]
}

// WithoutScheduler takes a scheduler away that the kernel does not have.
func (f *Fake) WithoutScheduler(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.schedulers, name)
}
