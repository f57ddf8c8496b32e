// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/told"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/bfd"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/metrics"
)

// someBFD is a detector that counted something.
type someBFD struct{ noBFD }

func (someBFD) States() map[string]bfd.State {
	s := bfd.State{In: 5, Out: 6}
	s.Dropped[0], s.Dropped[1] = 1, 2
	return map[string]bfd.State{"spine": s}
}

func (someBFD) Strangers() bfd.Drops { return bfd.Drops{3, 4} }

func TestTeller(t *testing.T) {
	t.Parallel()
	speaker := newSimSpeaker(&simRouter{})
	teller := &teller{node: "a", speaker: speaker, bfd: someBFD{}}
	teller.ServeHTTP(httptest.NewRecorder(), nil) // before the first plan
	p := loadbalancer.BGPPlan{
		Sessions: []loadbalancer.BGPSession{simSession("spine", false)},
		Routes: map[string][]loadbalancer.BGPRoute{"spine": {{
			Prefix: netip.MustParsePrefix("192.0.2.1/32"), Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
			BGPAttributes: loadbalancer.BGPAttributes{
				HasLocalPref: true, MED: 7, Prepend: 2, LinkBandwidth: 3, Communities: []loadbalancer.Community{loadbalancer.GracefulShutdown()},
			},
		}}},
		Silent: map[netip.Addr]string{netip.MustParseAddr("192.0.2.9"): "NoLocalEndpoint", netip.MustParseAddr("192.0.2.8"): "NoEndpoints"},
	}
	teller.plan.Store(&p)
	speaker.Apply(p, nil)
	w := httptest.NewRecorder()
	var h health
	h.handler(http.NotFoundHandler(), teller).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, told.Path, http.NoBody))
	var got told.Report
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	pref := uint32(0)
	want := told.Report{
		Node:   "a",
		Silent: []told.Silent{{Address: "192.0.2.8", Reason: "NoEndpoints"}, {Address: "192.0.2.9", Reason: "NoLocalEndpoint"}},
		Sessions: []told.Session{{
			Peer: "spine", Address: "10.0.0.254", ASN: 64512, State: "Established",
			Routes: []told.Route{{
				Prefix: "192.0.2.1/32", LocalPref: &pref, Prepend: 2, LinkBandwidth: 3,
				Communities: []string{loadbalancer.GracefulShutdown().String()}, Addresses: []string{"192.0.2.1"},
			}},
		}},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(told.Session{}, "Since")); diff != "" {
		t.Errorf("%s (-want +got):\n%s", told.Path, diff)
	}
	figures := []metrics.BGPSession{{
		Peer: "spine", Address: "10.0.0.254", Endpoint: "10.0.0.254:179", Up: true, Prefixes: 1, BFD: metrics.BFD{In: 5, Out: 6, Dropped: 3},
	}}
	if diff := cmp.Diff(figures, teller.Read()); diff != "" {
		t.Errorf("figures (-want +got):\n%s", diff)
	}
	if packets, connections := teller.Strangers(); packets != 7 || connections != 2 {
		t.Errorf("%d packets and %d connections of strangers, want 7 and 2", packets, connections)
	}
	if err := speaker.Stop(context.WithoutCancel(t.Context()), false); err != nil {
		t.Error(err)
	}
}
