// SPDX-License-Identifier: Apache-2.0

package metrics_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/metrics"
)

// reviewer is the API server: it knows the tokens "scraper" and "nobody".
type reviewer struct {
	away  bool
	asked int
	spec  authorizationv1.SubjectAccessReviewSpec
}

type tokens struct{ *reviewer }

func (r tokens) Create(_ context.Context, in *authenticationv1.TokenReview, _ metav1.CreateOptions) (*authenticationv1.TokenReview, error) {
	r.asked++
	if r.away {
		return nil, errors.New("the server is away")
	}
	out := in.DeepCopy()
	out.Status.User.Username = in.Spec.Token
	out.Status.Authenticated = in.Spec.Token == "scraper" || in.Spec.Token == "nobody"
	return out, nil
}

type access struct{ *reviewer }

func (r access) Create(_ context.Context, in *authorizationv1.SubjectAccessReview, _ metav1.CreateOptions) (*authorizationv1.SubjectAccessReview, error) {
	r.spec = in.Spec
	out := in.DeepCopy()
	out.Status.Allowed = in.Spec.User == "scraper"
	return out, nil
}

func get(t *testing.T, h http.Handler, authorization string) int {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody)
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code
}

func protect(r *reviewer) http.Handler {
	return metrics.NewAuthorizer(tokens{r}, access{r}).Require(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
}

func TestAuthorizer(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]int{
		"":                 http.StatusUnauthorized,
		"Bearer ":          http.StatusUnauthorized,
		"Basic scraper":    http.StatusUnauthorized,
		"Bearer forged":    http.StatusUnauthorized,
		"Bearer nobody":    http.StatusForbidden,
		"Bearer scraper":   http.StatusOK,
		"Bearer scraper x": http.StatusUnauthorized,
	} {
		r := &reviewer{}
		if got := get(t, protect(r), header); got != want {
			t.Errorf("%q: status %d, want %d", header, got, want)
		}
		if header == "Bearer scraper" && (r.spec.NonResourceAttributes.Path != "/metrics" || r.spec.NonResourceAttributes.Verb != "get") {
			t.Errorf("asked for %+v", r.spec.NonResourceAttributes)
		}
	}
	if got := get(t, protect(&reviewer{away: true}), "Bearer scraper"); got != http.StatusServiceUnavailable {
		t.Errorf("without an API server: status %d, want 503", got)
	}
}

func TestVerdictsAreKeptForAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &reviewer{}
		h := protect(r)
		for range 5 {
			get(t, h, "Bearer scraper")
			time.Sleep(10 * time.Second) //nolint:forbidigo // a bubble's clock
		}
		if r.asked != 1 {
			t.Errorf("asked %d times in 50 s, want once", r.asked)
		}
		time.Sleep(15 * time.Second) //nolint:forbidigo // a bubble's clock
		get(t, h, "Bearer scraper")
		if r.asked != 2 {
			t.Errorf("asked %d times in 65 s, want twice", r.asked)
		}
	})
}

func TestFiguresAreExported(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	m, err := metrics.New(reg, "v1")
	if err != nil {
		t.Fatal(err)
	}
	m.Now(3, 4)
	m.TookOver()
	m.Released(reason.NotOwner)
	for _, w := range []metrics.Wire{m.ARP(), m.NDP(), m.NDP()} {
		w.Request()
		w.Reply()
		w.Gratuitous()
		w.Conflict()
	}
	m.SetAbsent(5)
	m.SetDuplicates(6)
	m.SplitView()
	m.DirectDeath()
	m.DirectDeath()
	m.SetConflicts([]metrics.Conflict{{"192.0.2.9", "eth0", "02:00:00:00:00:08"}})
	m.SetConflicts([]metrics.Conflict{{"192.0.2.1", "eth0", "02:00:00:00:00:09"}})
	w := httptest.NewRecorder()
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody))
	for _, line := range []string{
		"fairlead_agent_announced_addresses 3", "fairlead_agent_gossip_members 4", "fairlead_agent_takeovers_total 1",
		`fairlead_agent_releases_total{reason="NotOwner"} 1`, "fairlead_agent_arp_requests_total 1", "fairlead_agent_arp_replies_total 1",
		"fairlead_agent_ndp_solicitations_total 2", "fairlead_agent_ndp_advertisements_total 2",
		"fairlead_agent_gratuitous_total 3", "fairlead_agent_owner_conflicts_total 3", `fairlead_agent_build_info{version="v1"} 1`,
		"fairlead_agent_absent_nodes 5", "fairlead_agent_duplicate_addresses 6",
		"fairlead_agent_split_views_total 1", "fairlead_agent_direct_deaths_total 2",
		`fairlead_agent_address_conflict{address="192.0.2.1",interface="eth0",mac="02:00:00:00:00:09"} 1`,
	} {
		if !strings.Contains(w.Body.String(), line+"\n") {
			t.Errorf("no line %q", line)
		}
	}
	if strings.Contains(w.Body.String(), "192.0.2.9") {
		t.Error("a conflict that is over is still there")
	}
	if _, err := metrics.New(reg, "v1"); err == nil {
		t.Error("registered twice without an error")
	}
}
