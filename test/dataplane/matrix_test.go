// SPDX-License-Identifier: Apache-2.0

//go:build ipvs

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
)

// silenceTimeout bounds how long a place may get no answer.
const silenceTimeout = 30 * time.Second

// services of the matrix; each is a row by TCP and one by UDP.
func (w *World) services() []*Service {
	var out []*Service
	for _, v6 := range []bool{false, true} {
		for _, s := range []Service{
			{Name: "cluster-pod"},
			{Name: "cluster-node-port", NodePort: true},
			{Name: "local-pod", Local: true},
			{Name: "local-node-port", Local: true, NodePort: true},
			{Name: "cluster-proxy", LeaveToProxy: true},
			{Name: "local-proxy", LeaveToProxy: true, Local: true},
		} {
			s.IPv6, s.Pods = v6, []*Pod{w.A, w.B}
			s.Name += map[bool]string{false: "-4", true: "-6"}[v6]
			out = append(out, &s)
		}
	}
	return out
}

// pairwise says whether CI has a Service in a mode: everything in one mode, and of the two
// others the halves that have each two properties together. kube-proxy in ipvs mode starts a
// program per element of a set, which takes it minutes under emulation for all of them.
func pairwise(mode Mode, s *Service) bool {
	odd := s.Local != s.NodePort != s.IPv6
	switch mode {
	case NFTables:
		return true
	case IPVS:
		return !s.LeaveToProxy && !odd
	default:
		return !s.LeaveToProxy && odd
	}
}

func testMatrix(t *testing.T, w *World, mode Mode) {
	services := w.services()
	if !full() {
		services = slices.DeleteFunc(services, func(s *Service) bool { return !pairwise(mode, s) })
	}
	for _, s := range services {
		if err := w.Create(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	addresses, err := w.Served(t.Context(), services...)
	if err != nil {
		t.Fatal(err)
	}
	w.say("%d services are served", len(services))
	t.Run("rows", func(t *testing.T) {
		for _, s := range services {
			owner, err := w.Owner(t.Context(), addresses[s])
			if err != nil {
				t.Error(err)
				continue
			}
			for _, proto := range []Protocol{TCP, UDP} {
				r := &Row{Mode: mode, Service: s, Proto: proto, To: addresses[s], Owner: owner}
				t.Run(fmt.Sprintf("%s/%s", s.Name, proto), func(t *testing.T) { testRow(t, w, r) })
			}
		}
	})
	w.say("rows are done")
	if err := w.Remove(t.Context(), services...); err != nil {
		t.Error(err)
	}
}

func testRow(t *testing.T, w *World, r *Row) {
	t.Parallel()
	for _, c := range r.Cases(w) {
		check := func(ctx context.Context) error { return r.Check(ctx, &c) }
		err := check(t.Context())
		switch {
		case err == nil:
		case r.Service.LeaveToProxy || r.Service.NodePort:
			// Nothing tells when kube-proxy has programmed a Service, node ports included.
			_, err = harness.Eventually(t.Context(), proxyTimeout, check)
		case errors.Is(err, ErrSilence):
			// On an emulated processor that everything shares, a packet may wait for seconds.
			// Whoever is refused, or reaches another pod, has been once too often.
			w.say("%s: %s: again after %v", r.Name(), c.Name, err)
			_, err = harness.Eventually(t.Context(), silenceTimeout, check)
		}
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
}
