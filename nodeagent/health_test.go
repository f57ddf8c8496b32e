// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/status"
)

func TestHealthEndpoints(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		beat   time.Duration // how long ago it was, 0 is never
		state  *debugState
		path   string
		status int
		body   string
	}{
		"starting is alive":     {path: "/healthz", status: http.StatusOK, body: "ok"},
		"starting is not ready": {path: "/readyz", status: http.StatusServiceUnavailable, body: "reads the cluster's objects"},
		"stuck":                 {beat: time.Minute, path: "/healthz", status: http.StatusServiceUnavailable, body: "stuck"},
		"beating":               {beat: 1, path: "/healthz", status: http.StatusOK, body: "ok"},
		"no key": {
			state: &debugState{ready: status.Health{Reason: reason.NoGossipKey, Message: "no Secret"}},
			path:  "/readyz", status: http.StatusServiceUnavailable, body: "NoGossipKey: no Secret",
		},
		"ready": {state: &debugState{ready: status.Health{Ready: true}}, path: "/readyz", status: http.StatusOK, body: "ok"},
		"state": {
			state: &debugState{
				ready:   status.Health{Ready: true, Reason: reason.Running},
				members: map[loadbalancer.NodeName]plan.Member{"a": {Known: true}},
			},
			path: "/debug/state", status: http.StatusOK, body: "ready true (Running)\nmember a known true",
		},
		"no secrets elsewhere": {path: "/debug/pprof/", status: http.StatusNotFound},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var h health
			if tt.beat > 0 {
				h.beat.Store(time.Now().Add(-tt.beat).UnixNano())
			}
			h.state.Store(tt.state)
			w := httptest.NewRecorder()
			h.handler(http.NotFoundHandler(), http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, tt.path, http.NoBody))
			if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.body) {
				t.Errorf("%d %q, want %d with %q", w.Code, w.Body, tt.status, tt.body)
			}
		})
	}
}
