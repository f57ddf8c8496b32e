// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
	"github.com/fairlead-lb/fairlead/loadbalancer/told"
	"github.com/fairlead-lb/fairlead/loadbalancer/traffic"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/status"
)

// stuckAfter is when an owner loop that does not come round counts as dead.
const stuckAfter = 10 * time.Second

// health is what the loop tells the health server.
type health struct {
	// beat is when the loop last came round, in Unix nanoseconds; 0 before it starts.
	beat  atomic.Int64
	state atomic.Pointer[debugState]
	// planning is held while the groups of the last state may change.
	planning sync.Mutex
	// announced counts the addresses that the loop announces.
	announced atomic.Int64
}

// debugState is one round of the loop, immutable but for the groups, which are those of the
// latest plan.
type debugState struct {
	ready   status.Health
	members map[loadbalancer.NodeName]plan.Member
	state   plan.NodeState
}

// String is the text of /debug/state.
func (d *debugState) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "ready %t (%s)\n", d.ready.Ready, d.ready.Reason)
	for _, n := range slices.Sorted(maps.Keys(d.members)) {
		m := d.members[n]
		fmt.Fprintf(&b, "member %s known %t leaving %t absent %t claims %d interfaces", n, m.Known, m.Leaving, m.Absent, len(m.Claims))
		for _, i := range m.Interfaces {
			fmt.Fprintf(&b, " %s%v", i.Name, i.Prefixes)
		}
		b.WriteByte('\n')
	}
	b.WriteString(d.state.String())
	return b.String()
}

// settled is a state with groups that do not change any more.
func (h *health) settled(d debugState) *debugState {
	h.planning.Lock()
	defer h.planning.Unlock()
	d.state.Groups = maps.Clone(d.state.Groups)
	return &d
}

// healthy says why the agent should be restarted, "" when it should not.
func (h *health) healthy(now time.Time) string {
	beat := h.beat.Load()
	if beat != 0 && now.Sub(time.Unix(0, beat)) > stuckAfter {
		return "the owner loop is stuck"
	}
	return ""
}

// handler serves what the loop tells, what the node forwards and what it tells by BGP.
func (h *health) handler(forwards, tells http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, h.healthy(time.Now()))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		d := h.state.Load()
		switch {
		case d == nil:
			answer(w, "the agent reads the cluster's objects")
		case !d.ready.Ready:
			answer(w, string(d.ready.Reason)+": "+d.ready.Message)
		default:
			answer(w, "")
		}
	})
	mux.HandleFunc("GET /debug/state", func(w http.ResponseWriter, _ *http.Request) {
		if d := h.state.Load(); d != nil {
			// The client is gone if this fails.
			_, _ = w.Write([]byte(h.settled(*d).String()))
		}
	})
	mux.Handle("GET "+traffic.Path, forwards)
	mux.Handle("GET "+told.Path, tells)
	return mux
}

// answer writes ok, or 503 with the fault.
func answer(w http.ResponseWriter, fault string) {
	if fault != "" {
		http.Error(w, fault, http.StatusServiceUnavailable)
		return
	}
	// The client is gone if this fails.
	_, _ = w.Write([]byte("ok\n"))
}

func (a *Agent) serveHealth(ctx context.Context) error {
	srv := &http.Server{Handler: a.health.handler(a.meter, a.teller), ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", a.o.HealthAddress)
	if err != nil {
		return fmt.Errorf("listen for health checks: %w", err)
	}
	defer context.AfterFunc(ctx, func() {
		// Open requests do not matter at the end.
		_ = srv.Close()
	})()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve health checks: %w", err)
	}
	return nil
}
