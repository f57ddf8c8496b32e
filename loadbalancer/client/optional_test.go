// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
)

// What was there once does not vanish because the server forgets the kind for a moment.
func TestOptionalKeepsWhatItRead(t *testing.T) {
	t.Parallel()
	var code atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if n := code.Load(); n != 0 {
			w.WriteHeader(int(n))
			_ = json.NewEncoder(w).Encode(metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonNotFound, Code: n})
			return
		}
		_ = json.NewEncoder(w).Encode(v1alpha1.BGPPeerList{})
	}))
	defer srv.Close()
	fl, err := client.New(&rest.Config{Host: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	o := client.NewOptional(fl.BGPPeers(), "BGPPeer", func() *v1alpha1.BGPPeerList { return &v1alpha1.BGPPeerList{} })
	code.Store(http.StatusNotFound)
	if _, err := o.List(t.Context(), metav1.ListOptions{}); err != nil || o.Why() == nil {
		t.Errorf("absent from the start: %v, %v", err, o.Why())
	}
	w, err := o.Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatalf("watch what is absent: %v", err)
	}
	w.Stop()
	if _, open := <-w.ResultChan(); open {
		t.Error("an event after the end")
	}
	code.Store(0)
	if _, err := o.List(t.Context(), metav1.ListOptions{}); err != nil || o.Why() != nil {
		t.Errorf("there: %v, %v", err, o.Why())
	}
	code.Store(http.StatusNotFound)
	if _, err := o.List(t.Context(), metav1.ListOptions{}); err == nil {
		t.Error("what was there is taken for empty")
	}
}
