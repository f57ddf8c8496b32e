// SPDX-License-Identifier: Apache-2.0

package agents_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/agents"
	"github.com/fairlead-lb/fairlead/loadbalancer/traffic"
)

func pod(node, component string, phase corev1.PodPhase) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "fairlead-system", Name: component + "-" + node, Labels: map[string]string{
			"app.kubernetes.io/name": "fairlead", "app.kubernetes.io/component": component,
		}},
		Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: phase},
	}
}

// Every agent is asked, nobody else, and one that does not answer is named.
func TestReports(t *testing.T) {
	t.Parallel()
	kube := fake.NewClientset(
		pod("n2", "node-agent", corev1.PodRunning), pod("n1", "node-agent", corev1.PodRunning), pod("n3", "node-agent", corev1.PodPending),
		pod("n4", "node-agent", corev1.PodRunning), pod("n1", "controller", corev1.PodRunning),
	)
	reports, gaps, err := agents.Reports(t.Context(), kube, "", func(_ context.Context, p *corev1.Pod) (traffic.Report, error) {
		if p.Spec.NodeName == "n4" {
			return traffic.Report{}, errors.New("no route to host")
		}
		return traffic.Report{Node: p.Spec.NodeName}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]traffic.Report{{Node: "n1"}, {Node: "n2"}}, reports); diff != "" {
		t.Errorf("reports (-want +got):\n%s", diff)
	}
	want := []agents.Gap{{Node: "n3", Cause: "its agent does not run"}, {Node: "n4", Cause: "no route to host"}}
	if diff := cmp.Diff(want, gaps); diff != "" {
		t.Errorf("gaps (-want +got):\n%s", diff)
	}
}

func TestGet(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status     int
		body, want string
	}{
		"a report":         {http.StatusOK, `{"node":"n1","servers":[{"service":"web"}]}`, ""},
		"an older version": {http.StatusNotFound, "404 page not found", "of a version that does not tell"},
		"a broken kernel":  {http.StatusInternalServerError, "netlink: no buffer", "500 Internal Server Error: netlink: no buffer"},
		"rubbish":          {http.StatusOK, "<html>", "read what the agent tells"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != traffic.Path {
					t.Errorf("asked for %s", r.URL.Path)
				}
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.body))
			}))
			defer srv.Close()
			r, err := agents.Get[traffic.Report](t.Context(), srv.URL, traffic.Path)
			if c.want == "" && (err != nil || r.Node != "n1" || len(r.Servers) != 1) {
				t.Errorf("%+v, %v", r, err)
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}
