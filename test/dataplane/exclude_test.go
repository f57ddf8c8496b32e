// SPDX-License-Identifier: Apache-2.0

//go:build ipvs

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/test/harness"
)

// removals is how long kube-proxy is given to remove what it did not make: it does so
// whenever it programs anything, at least every half a minute.
const removals = 2 * time.Minute

// testWithoutExclude runs one node's kube-proxy in ipvs mode without excludeCIDRs: it removes
// our virtual servers, the agent puts them back, and says exactly what to set. It leaves
// kube-proxy so.
func testWithoutExclude(t *testing.T, w *World) {
	s := &Service{Name: "without-exclude", Pods: []*Pod{w.A, w.B}}
	to := w.serve(t, s)
	n, p := w.Rig.Nodes()[0], w.Proxies[0]
	w.settle(t, n, s)
	stream := NewStream(t.Context(), w.Via[0], netip.AddrPortFrom(to, servicePort), pace)
	began := time.Now()
	err := errors.Join(p.Stop(), p.Start(t.Context(), IPVS, "--ipvs-exclude-cidrs="+documentation), p.Running(t.Context()))
	if err != nil {
		t.Error(err)
	}
	_, err = harness.Eventually(t.Context(), removals, func(ctx context.Context) error {
		a, err := w.Rig.API().NodeAgents().Get(ctx, n.Name(), metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("get the agent of %s: %w", n.Name(), err)
		}
		d := &a.Status.DataPlane
		if d.Reason != reason.KubeProxyExcludeCIDRs.String() || !strings.Contains(d.Message, "ipvs.excludeCIDRs") || !strings.Contains(d.Message, to.String()) {
			return fmt.Errorf("it says %s: %s", d.Reason, d.Message)
		}
		if log, back := repairs(t, n, began); !strings.Contains(back, "virtual-servers") {
			return fmt.Errorf("kube-proxy removed nothing that was put back:\n%s", log)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	result, err := stream.Stop()
	if err != nil {
		t.Error(err)
	}
	_, back := repairs(t, n, began)
	w.say("ipvs: without excludeCIDRs: put back %s; %s", back, result)
	for _, f := range result.Failures {
		t.Errorf("%s after kube-proxy was stopped: %v", f.At.Sub(began).Round(time.Millisecond), f.Err)
	}
	if err := w.Remove(t.Context(), s); err != nil {
		t.Error(err)
	}
}
