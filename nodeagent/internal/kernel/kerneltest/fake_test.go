// SPDX-License-Identifier: Apache-2.0

package kerneltest_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel/kerneltest"
)

func TestFakeConforms(t *testing.T) {
	kerneltest.Conform(t, kerneltest.New())
	kerneltest.ConformLink(t, kerneltest.New())
}

func TestFaults(t *testing.T) {
	key := loadbalancer.VirtualServerKey{Addr: netip.MustParseAddr("192.0.2.1"), Protocol: loadbalancer.TCP, Port: 80}
	v := loadbalancer.VirtualServer{VirtualServerKey: key, Scheduler: "rr"}
	for _, tt := range []struct {
		name  string
		fault func(kerneltest.Op) error
		// failed says which of AddServer, Has, AddReal fail, left whether the virtual and
		// its real server are there then.
		failed            [3]bool
		server, realThere bool
	}{
		{name: "none", server: true, realThere: true},
		{name: "once", fault: kerneltest.FailAt(1), failed: [3]bool{true, false, true}},
		{name: "a read", fault: kerneltest.FailAt(2), failed: [3]bool{false, true, false}, server: true, realThere: true},
		{name: "for good", fault: kerneltest.CrashAt(2), failed: [3]bool{false, true, true}, server: true},
		{
			name: "late",
			fault: func(o kerneltest.Op) error {
				if o.Name == "AddReal" {
					return kerneltest.Late(kerneltest.ErrInjected)
				}
				return nil
			},
			failed: [3]bool{false, false, true}, server: true, realThere: true,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := kerneltest.New()
			f.Fault(tt.fault)
			errAdd := f.AddServer(v)
			_, errHas := f.Has(key)
			errReal := f.AddReal(key, loadbalancer.RealServer{RealServerKey: loadbalancer.RealServerKey{Addr: netip.MustParseAddr("10.0.0.1"), Port: 80}})
			if got := [3]bool{errAdd != nil, errHas != nil, errReal != nil}; got != tt.failed {
				t.Errorf("failed %v, want %v: %v, %v, %v", got, tt.failed, errAdd, errHas, errReal)
			}
			if ops := f.Ops(); len(ops) != 3 || ops[2].String() != "3 AddReal 192.0.2.1:80/TCP → 10.0.0.1:80" || !ops[2].Writes() || ops[1].Writes() {
				t.Errorf("operations %v", ops)
			}
			f.Fault(nil)
			list, err := f.List()
			if err != nil {
				t.Fatal(err)
			}
			if server, r := len(list) > 0, len(list) > 0 && len(list[0].Reals) > 0; server != tt.server || r != tt.realThere {
				t.Errorf("virtual server %t, real server %t; want %t, %t", server, r, tt.server, tt.realThere)
			}
		})
	}
}

func TestSettings(t *testing.T) {
	f := kerneltest.New()
	if err := f.SetSysctl("net/ipv4/vs/conntrack", "1"); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Sysctl("net/ipv4/vs/conntrack"); err != nil || got != "1" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := f.Sysctl("net/none"); !errors.Is(err, kernel.ErrNotFound) {
		t.Errorf("a setting that is not there: %v", err)
	}
	if err := f.SetSysctl("net/none", "1"); !errors.Is(err, kernel.ErrNotFound) {
		t.Errorf("set one that is not there: %v", err)
	}
}
