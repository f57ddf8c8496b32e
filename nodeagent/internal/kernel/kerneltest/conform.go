// SPDX-License-Identifier: Apache-2.0

package kerneltest

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// Table has the methods of [kernel.IPVS] that [Conform] holds to rules.
type Table interface {
	List() ([]kernel.ServerState, error)
	Reals(key loadbalancer.VirtualServerKey) ([]kernel.RealState, error)
	Has(key loadbalancer.VirtualServerKey) (bool, error)
	ConnTableSize() (int, error)
	AddServer(v loadbalancer.VirtualServer) error
	UpdateServer(v loadbalancer.VirtualServer) error
	DeleteServer(key loadbalancer.VirtualServerKey) error
	AddReal(key loadbalancer.VirtualServerKey, r loadbalancer.RealServer) error
	UpdateReal(key loadbalancer.VirtualServerKey, r loadbalancer.RealServer) error
	DeleteReal(key loadbalancer.VirtualServerKey, r loadbalancer.RealServerKey) error
}

// Link has the methods of [kernel.Kernel] about our link.
type Link interface {
	VIPLink() ([]netip.Addr, bool, error)
	EnsureVIPLink() error
	DeleteVIPLink() error
	AddVIP(addr netip.Addr) error
	RemoveVIP(addr netip.Addr) error
	HasVIP(addr netip.Addr) (bool, error)
}

// Conform checks that an empty table keeps the rules on which the data plane is built; the
// fake one and the kernel's own must.
func Conform(t *testing.T, table Table) {
	t.Helper()
	t.Run("keys", func(t *testing.T) { conformKeys(t, table) })
	t.Run("real servers", func(t *testing.T) { conformReals(t, table) })
	t.Run("errors", func(t *testing.T) { conformErrors(t, table) })
	if n, err := table.ConnTableSize(); err != nil || n <= 0 {
		t.Errorf("the connection table has %d buckets: %v", n, err)
	}
}

// servers are one of each kind, ascending by key.
func servers() []loadbalancer.VirtualServer {
	at := func(addr string, p loadbalancer.Protocol, port uint16) loadbalancer.VirtualServer {
		return loadbalancer.VirtualServer{
			VirtualServerKey: loadbalancer.VirtualServerKey{Addr: netip.MustParseAddr(addr), Protocol: p, Port: port}, Scheduler: "rr",
		}
	}
	mark4, mark6 := at("0.0.0.0", 0, 0), at("::", 0, 0)
	mark4.Mark, mark6.Mark = 0x0fa00001, 0x0fa00001
	mark4.Scheduler, mark6.Affinity = "wlc", 30*time.Second
	tcp, udp, sctp := at("192.0.2.1", loadbalancer.TCP, 80), at("192.0.2.1", loadbalancer.UDP, 80), at("192.0.2.1", loadbalancer.SCTP, 80)
	udp.Affinity = 3 * time.Hour
	sctp.Scheduler = "lc"
	six := at("2001:db8::1", loadbalancer.TCP, 65535)
	six.Scheduler, six.Flags = "mh", loadbalancer.SchedPort|loadbalancer.SchedFallback
	return []loadbalancer.VirtualServer{mark4, tcp, udp, sctp, mark6, six}
}

func conformKeys(t *testing.T, table Table) {
	t.Helper()
	want := servers()
	for _, v := range want {
		must(t, table.AddServer(v))
	}
	if diff := gocmp.Diff(want, bareServers(t, table), gocmp.Comparer(sameAddr)); diff != "" {
		t.Errorf("added (-want +got):\n%s", diff)
	}
	for i := range want {
		has(t, table, want[i].VirtualServerKey, true)
		want[i].Scheduler, want[i].Flags, want[i].Affinity = "sh", loadbalancer.SchedPort, time.Duration(i)*time.Minute
		must(t, table.UpdateServer(want[i]))
	}
	if diff := gocmp.Diff(want, bareServers(t, table), gocmp.Comparer(sameAddr)); diff != "" {
		t.Errorf("updated (-want +got):\n%s", diff)
	}
	for len(want) > 0 {
		must(t, table.DeleteServer(want[0].VirtualServerKey))
		has(t, table, want[0].VirtualServerKey, false)
		want = want[1:]
		if diff := gocmp.Diff(want, bareServers(t, table), gocmp.Comparer(sameAddr)); diff != "" && len(want) > 0 {
			t.Errorf("one deleted (-want +got):\n%s", diff)
		}
	}
	if left := bareServers(t, table); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func sameAddr(a, b netip.Addr) bool { return a == b }

// bareServers are all virtual servers without real ones, by key.
func bareServers(t *testing.T, table Table) []loadbalancer.VirtualServer {
	t.Helper()
	list, err := table.List()
	must(t, err)
	out := make([]loadbalancer.VirtualServer, 0, len(list))
	for i := range list {
		if s := &list[i]; s.Odd {
			t.Errorf("%v is odd", s.VirtualServer)
		}
		out = append(out, list[i].VirtualServer)
	}
	slices.SortFunc(out, func(a, b loadbalancer.VirtualServer) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
	})
	return out
}

func has(t *testing.T, table Table, key loadbalancer.VirtualServerKey, want bool) {
	t.Helper()
	got, err := table.Has(key)
	must(t, err)
	if got != want {
		t.Errorf("has %v: %t, want %t", key, got, want)
	}
}

func realServer(addr string, port uint16, weight uint32) loadbalancer.RealServer {
	return loadbalancer.RealServer{
		RealServerKey: loadbalancer.RealServerKey{Addr: netip.MustParseAddr(addr), Port: port}, Weight: weight,
	}
}

func conformReals(t *testing.T, table Table) {
	t.Helper()
	for _, v := range servers() {
		list := []loadbalancer.RealServer{
			realServer("10.0.0.2", 8080, 0), realServer("10.0.0.1", 8080, 70000), realServer("10.0.0.1", 81, 1), realServer("198.51.100.1", 30080, 1<<31-1),
		}
		if v.Addr.Is6() {
			list = []loadbalancer.RealServer{realServer("fd00::2", 8080, 7), realServer("fd00::1", 8080, 1)}
		}
		key := v.VirtualServerKey
		must(t, table.AddServer(v))
		for _, r := range list {
			must(t, table.AddReal(key, r))
		}
		wantReals(t, table, key, list)
		must(t, table.UpdateServer(v)) // which leaves them alone
		list[1].Weight = 3
		must(t, table.UpdateReal(key, list[1]))
		wantReals(t, table, key, list)
		must(t, table.DeleteReal(key, list[0].RealServerKey))
		wantReals(t, table, key, list[1:])
		must(t, table.AddReal(key, list[0]))
		wantReals(t, table, key, append(list[1:], list[0]))
		must(t, table.DeleteServer(key))
		must(t, table.AddServer(v)) // the real servers went with it
		wantReals(t, table, key, nil)
		must(t, table.DeleteServer(key))
	}
}

// wantReals checks a virtual server's, which are listed the last one first.
func wantReals(t *testing.T, table Table, key loadbalancer.VirtualServerKey, want []loadbalancer.RealServer) {
	t.Helper()
	list, err := table.List()
	must(t, err)
	var got []loadbalancer.RealServer
	for i := range list {
		if list[i].VirtualServerKey != key {
			continue
		}
		for _, r := range slices.Backward(list[i].Reals) {
			if r.Odd || r.Active+r.Inactive+r.Persistent > 0 {
				t.Errorf("%v has connections or is odd", r)
			}
			got = append(got, r.RealServer)
		}
		one, err := table.Reals(key)
		must(t, err)
		if diff := gocmp.Diff(list[i].Reals, one, gocmp.Comparer(sameAddr), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("real servers of %v in a list and alone (-list +alone):\n%s", key, diff)
		}
	}
	if diff := gocmp.Diff(want, got, gocmp.Comparer(sameAddr)); diff != "" {
		t.Errorf("real servers of %v (-want +got):\n%s", key, diff)
	}
}

func conformErrors(t *testing.T, table Table) {
	t.Helper()
	v := servers()[1]
	key, r := v.VirtualServerKey, realServer("10.0.0.1", 80, 1)
	unschedulable := v
	unschedulable.Scheduler = "unheard"
	other := key
	other.Port++
	wantErr(t, "update none", table.UpdateServer(v), kernel.ErrNotFound)
	wantErr(t, "delete none", table.DeleteServer(key), kernel.ErrNotFound)
	_, err := table.Reals(key)
	wantErr(t, "the real servers of none", err, kernel.ErrNotFound)
	wantErr(t, "a real server of none", table.AddReal(key, r), kernel.ErrNotFound)
	wantErr(t, "an unknown scheduler", table.AddServer(unschedulable), kernel.ErrNoScheduler)
	must(t, table.AddServer(v))
	wantErr(t, "add again", table.AddServer(v), kernel.ErrExists)
	wantErr(t, "update to an unknown scheduler", table.UpdateServer(unschedulable), kernel.ErrNoScheduler)
	wantErr(t, "update a real server that is not there", table.UpdateReal(key, r), kernel.ErrNotFound)
	wantErr(t, "delete a real server that is not there", table.DeleteReal(key, r.RealServerKey), kernel.ErrNotFound)
	must(t, table.AddReal(key, r))
	wantErr(t, "add a real server again", table.AddReal(key, r), kernel.ErrExists)
	if table.AddReal(key, realServer("fd00::1", 80, 1)) == nil {
		t.Error("a real server of the other family was added")
	}
	wantErr(t, "update a real server of none", table.UpdateReal(other, r), kernel.ErrNotFound)
	wantErr(t, "delete a real server of none", table.DeleteReal(other, r.RealServerKey), kernel.ErrNotFound)
	wantReals(t, table, key, []loadbalancer.RealServer{r})
	must(t, table.DeleteServer(key))
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ConformLink is [Conform] of our link, which must not be there.
func ConformLink(t *testing.T, link Link) {
	t.Helper()
	four, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	want := func(exists bool, addrs ...netip.Addr) {
		t.Helper()
		got, ok, err := link.VIPLink()
		must(t, err)
		if ok != exists || !slices.Equal(got, addrs) {
			t.Errorf("link %t with %v, want %t with %v", ok, got, exists, addrs)
		}
		for _, a := range []netip.Addr{four, six} {
			has, err := link.HasVIP(a)
			must(t, err)
			if has != slices.Contains(addrs, a) {
				t.Errorf("has %s: %t, want %v", a, has, addrs)
			}
		}
	}
	want(false)
	wantErr(t, "an address without a link", link.AddVIP(four), kernel.ErrNotFound)
	must(t, link.RemoveVIP(four))
	must(t, link.DeleteVIPLink())
	must(t, link.EnsureVIPLink())
	want(true)
	must(t, link.EnsureVIPLink())
	must(t, link.RemoveVIP(four))
	must(t, link.AddVIP(six))
	must(t, link.AddVIP(four))
	want(true, four, six)
	must(t, link.AddVIP(four))
	must(t, link.AddVIP(six))
	must(t, link.EnsureVIPLink())
	want(true, four, six)
	must(t, link.RemoveVIP(four))
	must(t, link.RemoveVIP(four))
	want(true, six)
	must(t, link.DeleteVIPLink())
	want(false)
	must(t, link.EnsureVIPLink())
	want(true)
	must(t, link.DeleteVIPLink())
}
