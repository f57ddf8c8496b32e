// SPDX-License-Identifier: Apache-2.0

package claimfile_test

import (
	"context"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/claimfile"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// store is an API server's claims. fail, when set, is asked before each request.
type store struct {
	claims map[string]*v1alpha1.IPClaim
	fail   func(verb string) error
}

func gr() schema.GroupResource {
	return schema.GroupResource{Group: "fairlead.dev", Resource: "ipclaims"}
}

func (s *store) Get(_ context.Context, name string, _ metav1.GetOptions) (*v1alpha1.IPClaim, error) {
	if s.fail != nil {
		if err := s.fail("get"); err != nil {
			return nil, err
		}
	}
	if c, ok := s.claims[name]; ok {
		return c.DeepCopy(), nil
	}
	return nil, apierrors.NewNotFound(gr(), name)
}

func (s *store) Create(_ context.Context, c *v1alpha1.IPClaim, opts metav1.CreateOptions) (*v1alpha1.IPClaim, error) {
	if s.fail != nil {
		if err := s.fail("create"); err != nil {
			return nil, err
		}
	}
	if _, ok := s.claims[c.Name]; ok {
		return nil, apierrors.NewAlreadyExists(gr(), c.Name)
	}
	if len(opts.DryRun) == 0 {
		s.claims[c.Name] = c.DeepCopy()
	}
	return c, nil
}

func claim(addr string, services ...string) v1alpha1.IPClaim {
	c := v1alpha1.IPClaim{
		ObjectMeta: metav1.ObjectMeta{Name: addr},
		Spec:       v1alpha1.IPClaimSpec{Address: addr, Pool: "p", Group: addr, Phase: v1alpha1.ClaimBound},
	}
	for _, s := range services {
		c.Spec.Services = append(c.Spec.Services, v1alpha1.ServiceReference{Namespace: "ns", Name: s})
	}
	return c
}

func options() claimfile.Options {
	return claimfile.Options{Now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
}

// What Export writes, Import creates elsewhere; once more changes nothing.
func TestExportThenImportTwice(t *testing.T) {
	t.Parallel()
	hour := metav1.Duration{Duration: time.Hour}
	a, b, gone := claim("192.0.2.2", "web"), claim("192.0.2.10", "tcp", "udp"), claim("192.0.2.3", "gone")
	a.Spec.RetainFor = &hour
	b.Spec.SharingKey, b.Spec.Successors = "k", []string{"w"}
	gone.Spec.Phase = v1alpha1.ClaimReleasing
	exported := claimfile.Export([]v1alpha1.IPClaim{b, gone, a})
	if len(exported) != 2 || exported[0].Name != "192.0.2.2" || exported[1].Name != "192.0.2.10" {
		t.Fatalf("exported %+v", exported)
	}
	s := &store{claims: make(map[string]*v1alpha1.IPClaim)}
	for run, want := range []claimfile.Outcome{claimfile.Imported, claimfile.Skipped} {
		lines := claimfile.Import(t.Context(), s, exported, options())
		if claimfile.Count(lines, want) != 2 {
			t.Errorf("run %d: %+v", run, lines)
		}
	}
	for name, keep := range map[string]time.Duration{"192.0.2.2": time.Hour, "192.0.2.10": v1alpha1.DefaultRetainFor} {
		c := s.claims[name]
		if c.Spec.Phase != v1alpha1.ClaimRetained || !c.Spec.RetainUntil.Time.Equal(options().Now.Add(keep)) || len(c.Spec.Successors) > 0 {
			t.Errorf("%s is %+v", name, c.Spec)
		}
	}
	if got := s.claims["192.0.2.10"].Spec; len(got.Services) != 2 || got.SharingKey != "k" || got.Services[0].UID == got.Services[1].UID {
		t.Errorf("shared claim is %+v", got)
	}
}

// A claim that goes away between the two requests is free: it is taken.
func TestImportOfAClaimThatJustWent(t *testing.T) {
	t.Parallel()
	first := true
	s := &store{claims: make(map[string]*v1alpha1.IPClaim)}
	s.fail = func(verb string) error {
		if verb == "create" && first {
			first = false
			return apierrors.NewAlreadyExists(gr(), "x")
		}
		return nil
	}
	lines := claimfile.Import(t.Context(), s, []v1alpha1.IPClaim{claim("192.0.2.2", "web")}, options())
	if claimfile.Count(lines, claimfile.Imported) != 1 {
		t.Errorf("%+v", lines)
	}
}

// One that fails stops no other, and says why.
func TestImportFailures(t *testing.T) {
	t.Parallel()
	noPool, noService, noName, badName := claim("192.0.2.2", "web"), claim("192.0.2.3"), claim("192.0.2.4", ""), claim("192.0.2.05", "web")
	noPool.Spec.Pool = ""
	tests := map[string]struct {
		claim v1alpha1.IPClaim
		fail  error
		want  string
	}{
		"no pool":    {noPool, nil, "spec.pool"},
		"no service": {noService, nil, "nobody to keep"},
		"no name":    {noName, nil, "without namespace or name"},
		"bad name":   {badName, nil, "claim name"},
		"refused":    {claim("192.0.2.6", "web"), apierrors.NewForbidden(gr(), "192.0.2.6", nil), "forbidden"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &store{claims: make(map[string]*v1alpha1.IPClaim), fail: func(string) error { return tt.fail }}
			lines := claimfile.Import(t.Context(), s, []v1alpha1.IPClaim{tt.claim}, options())
			if len(lines) != 1 || lines[0].Outcome != claimfile.Failed || !strings.Contains(lines[0].Message, tt.want) {
				t.Errorf("%+v, want failed with %q", lines, tt.want)
			}
		})
	}
	good := claim("192.0.2.9", "web")
	s := &store{claims: make(map[string]*v1alpha1.IPClaim)}
	lines := claimfile.Import(t.Context(), s, []v1alpha1.IPClaim{noPool, good}, options())
	if claimfile.Count(lines, claimfile.Imported) != 1 || claimfile.Count(lines, claimfile.Failed) != 1 {
		t.Errorf("%+v", lines)
	}
}

func TestDryRunStoresNothing(t *testing.T) {
	t.Parallel()
	s := &store{claims: make(map[string]*v1alpha1.IPClaim)}
	o := options()
	o.DryRun = true
	lines := claimfile.Import(t.Context(), s, []v1alpha1.IPClaim{claim("192.0.2.2", "web")}, o)
	if claimfile.Count(lines, claimfile.Imported) != 1 || len(s.claims) != 0 {
		t.Errorf("%+v, stored %v", lines, s.claims)
	}
}
