// SPDX-License-Identifier: Apache-2.0

package vip_test

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel/kerneltest"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/vip"
)

func addrs(list ...int) []netip.Addr {
	out := make([]netip.Addr, 0, len(list))
	for _, n := range list {
		out = append(out, netip.AddrFrom4([4]byte{192, 0, byte(n >> 8), byte(n)}))
	}
	return out
}

func apply(t *testing.T, v *vip.VIPs, want []netip.Addr) vip.Result {
	t.Helper()
	r, err := v.Apply(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func check(t *testing.T, v *vip.VIPs) vip.Result {
	t.Helper()
	r, err := v.Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func wantLink(t *testing.T, f *kerneltest.Fake, want []netip.Addr) {
	t.Helper()
	f.Fault(nil)
	got, _, err := f.VIPLink()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("on the link: %v, want %v", got, want)
	}
}

func TestApply(t *testing.T) {
	f := kerneltest.New()
	v := vip.New(f)
	if _, err := v.Check(t.Context()); err != nil || len(f.Ops()) > 0 {
		t.Errorf("a check before any plan: %v, %v", f.Ops(), err)
	}
	apply(t, v, nil)
	if _, exists, _ := f.VIPLink(); exists {
		t.Error("a link without addresses")
	}
	apply(t, v, addrs(1, 2))
	wantLink(t, f, addrs(1, 2))
	f.Reset()
	apply(t, v, addrs(1, 2))
	if ops := f.Ops(); len(ops) > 0 {
		t.Errorf("nothing changed: %v", ops)
	}
	apply(t, v, addrs(2, 3))
	var names []string
	for _, o := range f.Ops() {
		if o.Writes() && o.Addr.IsValid() {
			names = append(names, o.Name)
		}
	}
	if !slices.Equal(names, []string{"AddVIP", "RemoveVIP"}) {
		t.Errorf("operations %q: not first added, then removed", names)
	}
	wantLink(t, f, addrs(2, 3))
	if err := v.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, exists, _ := f.VIPLink(); exists {
		t.Error("the link is still there")
	}
	f.Reset()
	if check(t, v); len(f.Ops()) > 0 {
		t.Errorf("a check after the end: %v", f.Ops())
	}
}

func TestAdopt(t *testing.T) {
	f := kerneltest.New()
	apply(t, vip.New(f), addrs(1, 2, 3))
	next := vip.New(f)
	if left, err := next.List(); err != nil || !slices.Equal(left, addrs(1, 2, 3)) {
		t.Errorf("left: %v, %v", left, err)
	}
	f.Reset()
	if r := apply(t, next, addrs(2, 3, 4)); r.Repaired != 0 {
		t.Errorf("repaired %d", r.Repaired)
	}
	if slices.ContainsFunc(f.Ops(), func(o kerneltest.Op) bool { return o.Name == "AddVIP" && o.Addr != addrs(4)[0] }) {
		t.Errorf("not adopted: %v", f.Ops())
	}
	wantLink(t, f, addrs(2, 3, 4))
}

func TestRepair(t *testing.T) {
	f := kerneltest.New()
	v := vip.New(f)
	apply(t, v, addrs(1, 2, 3))
	f.DropLink()
	if r := check(t, v); r.Repaired != 3 {
		t.Errorf("repaired %d of 3", r.Repaired)
	}
	wantLink(t, f, addrs(1, 2, 3))
	if err := f.RemoveVIP(addrs(2)[0]); err != nil {
		t.Fatal(err)
	}
	if r := check(t, v); r.Repaired != 1 {
		t.Errorf("repaired %d of 1", r.Repaired)
	}
	wantLink(t, f, addrs(1, 2, 3))
	if r := check(t, v); r.Repaired != 0 {
		t.Errorf("repaired %d once more", r.Repaired)
	}
}

// A check costs the same whether there are many or few.
func TestCheckOfManyIsCheap(t *testing.T) {
	f := kerneltest.New()
	v := vip.New(f)
	list := make([]int, 2000)
	for i := range list {
		list[i] = i
	}
	apply(t, v, addrs(list...))
	f.Reset()
	check(t, v)
	if n := len(f.Ops()); n > 32 {
		t.Errorf("%d operations", n)
	}
	f.DropLink()
	if r := check(t, v); r.Repaired != 2000 {
		t.Errorf("repaired %d of 2000", r.Repaired)
	}
}

func TestNeverWhatAnotherLinkHas(t *testing.T) {
	f := kerneltest.New()
	f.SetAddrs(addrs(2)...)
	v := vip.New(f)
	if r := apply(t, v, addrs(1, 2, 3)); len(r.Refused) != 1 || !errors.Is(r.Refused[addrs(2)[0]], vip.ErrElsewhere) {
		t.Errorf("refused %v", r.Refused)
	}
	wantLink(t, f, addrs(1, 3))
	f.SetAddrs()
	if r := check(t, v); len(r.Refused) != 0 {
		t.Errorf("refused %v", r.Refused)
	}
	wantLink(t, f, addrs(1, 2, 3))
}

// Whichever operation fails, done or not, or is the last of its agent: a little later the link
// is as planned.
func TestEveryOperationMayFail(t *testing.T) {
	for _, mode := range []string{"fails", "fails late", "dies"} {
		for at := 1; ; at++ {
			f := kerneltest.New()
			v := vip.New(f)
			apply(t, v, addrs(1, 2, 3))
			f.DropLink()
			if err := f.EnsureVIPLink(); err != nil {
				t.Fatal(err)
			}
			if err := f.AddVIP(addrs(1)[0]); err != nil {
				t.Fatal(err)
			}
			v = vip.New(f)
			f.Reset()
			fault := kerneltest.FailAt(at)
			switch mode {
			case "fails late":
				early := fault
				fault = func(o kerneltest.Op) error {
					if err := early(o); err != nil {
						return kerneltest.Late(err)
					}
					return nil
				}
			case "dies":
				fault = kerneltest.CrashAt(at)
			}
			f.Fault(fault)
			r, err := v.Apply(t.Context(), addrs(2, 3, 4))
			ended := len(f.Ops()) < at
			if !ended && err == nil && len(r.Refused) == 0 {
				t.Errorf("%s at %d: nobody was told", mode, at)
			}
			f.Fault(nil)
			if mode == "dies" {
				v = vip.New(f)
				apply(t, v, addrs(2, 3, 4))
			}
			check(t, v)
			check(t, v)
			wantLink(t, f, addrs(2, 3, 4))
			if ended {
				break
			}
		}
	}
}

// The kernel may lose the link between any two operations.
func TestConvergesWhateverCame(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		f := kerneltest.New()
		v := vip.New(f)
		var want []netip.Addr
		for range 10 {
			want = nil
			for i := range 8 {
				if random.IntN(2) == 0 {
					want = append(want, addrs(i)...)
				}
			}
			switch random.IntN(4) {
			case 0:
				f.DropLink()
			case 1:
				f.Fault(kerneltest.FailAt(len(f.Ops()) + 1 + random.IntN(8)))
			case 2:
				v = vip.New(f)
			}
			_, _ = v.Apply(t.Context(), want) // It may fail, now and then.
		}
		f.Fault(nil)
		check(t, v)
		check(t, v)
		wantLink(t, f, want)
	}
}

func TestAFailureToReadIsTold(t *testing.T) {
	f := kerneltest.New()
	f.Fault(func(o kerneltest.Op) error {
		if o.Name == "VIPLink" {
			return kernel.ErrNotFound
		}
		return nil
	})
	if _, err := vip.New(f).Apply(t.Context(), addrs(1)); err == nil {
		t.Error("no error")
	}
}
