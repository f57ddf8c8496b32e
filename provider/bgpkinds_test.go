// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer/client"
)

// The kinds of BGP are watched where there are any; the API server of an older
// installation has none, or does not let the controller read them, and nobody waits.
func TestKindsOfBGP(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		status int
		absent bool
	}{
		"a server that has them":        {http.StatusOK, false},
		"a server that has none":        {http.StatusNotFound, true},
		"a server that lets nobody see": {http.StatusForbidden, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(klog.NewContext(t.Context(), logr.Discard()), 30*time.Second)
			defer cancel()
			var asked atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(tc.status)
				switch {
				case tc.status != http.StatusOK:
					reason := map[int]string{http.StatusNotFound: "NotFound", http.StatusForbidden: "Forbidden"}[tc.status]
					_, _ = w.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"` + reason + `"}`))
				case r.URL.Query().Get("sendInitialEvents") == "true":
					// An older server lists instead.
				case r.URL.Query().Get("watch") != "":
					if err := http.NewResponseController(w).Flush(); err != nil {
						return
					}
					<-r.Context().Done()
				default:
					kind := map[string]string{"bgppeers": "BGPPeer", "bgpadvertisements": "BGPAdvertisement", "bfdprofiles": "BFDProfile", "communities": "Community"}
					path := strings.Split(r.URL.Path, "/")
					_, _ = w.Write([]byte(`{"kind":"` + kind[path[len(path)-1]] + `List","apiVersion":"fairlead.dev/v1alpha1","metadata":{"resourceVersion":"1"},"items":[]}`))
				}
			}))
			defer server.Close()
			fl, err := client.New(&rest.Config{Host: server.URL})
			if err != nil {
				t.Fatal(err)
			}
			w := wiring{fl: fl}
			w.makeBGPInformers()
			var synced []cache.InformerSynced
			for _, i := range []cache.SharedIndexInformer{w.bgp.Peers, w.bgp.Advertisements, w.bgp.Profiles, w.bgp.Communities} {
				go i.RunWithContext(ctx)
				synced = append(synced, i.HasSynced)
			}
			if !cache.WaitForCacheSync(ctx.Done(), synced...) {
				t.Fatalf("not synced after %d questions", asked.Load())
			}
			if got := w.bgp.Absent(); got != tc.absent {
				t.Errorf("absent %t", got)
			}
			cancel()
			server.CloseClientConnections()
		})
	}
}
