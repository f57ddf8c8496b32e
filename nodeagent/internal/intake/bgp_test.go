// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	discoveryv1client "k8s.io/client-go/kubernetes/typed/discovery/v1"
	"k8s.io/client-go/rest"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

func peer(name, secret string) *v1alpha1.BGPPeer {
	p := &v1alpha1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.BGPPeerSpec{MyASN: 64513, PeerASN: 64512, PeerAddress: "192.0.2.254"}}
	if secret != "" {
		p.Spec.PasswordSecret = &corev1.SecretReference{Name: secret}
	}
	return p
}

func secret(name, password string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "fairlead-system", Name: name}, Type: corev1.SecretTypeBasicAuth,
		Data: map[string][]byte{"password": []byte(password)},
	}
}

func ownNode(labels map[string]string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: labels},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}},
	}
}

func TestBGP(t *testing.T) {
	t.Parallel()
	i := copies(t)
	put(t, i, i.nodes, ownNode(map[string]string{"rack": "r1"}))
	put(t, i, i.nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}})
	put(t, i, i.bgp.peers, peer("b", ""))
	put(t, i, i.bgp.peers, peer("a", "md5"))
	elsewhere := peer("elsewhere", "")
	elsewhere.Spec.NodeSelectors = []metav1.LabelSelector{{MatchLabels: map[string]string{"rack": "r2"}}}
	put(t, i, i.bgp.peers, elsewhere)
	vrf := peer("vrf", "")
	vrf.Spec.VRF, vrf.Spec.BFDProfile = "red", "fast"
	put(t, i, i.bgp.peers, vrf)
	put(t, i, i.bgp.profiles, &v1alpha1.BFDProfile{ObjectMeta: metav1.ObjectMeta{Name: "fast"}})
	put(t, i, i.bgp.secrets, secret("md5", "first"))
	put(t, i, i.bgp.communities, &v1alpha1.Community{
		ObjectMeta: metav1.ObjectMeta{Name: "c"},
		Spec:       v1alpha1.CommunitySpec{Communities: []v1alpha1.CommunityAlias{{Name: "gold", Value: "65000:1"}}},
	})
	put(t, i, i.bgp.ads, &v1alpha1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: "all"}, Spec: v1alpha1.BGPAdvertisementSpec{Communities: []string{"gold"}}})
	first := i.BGP(t.Context(), nil)
	var names []string
	for _, s := range first.Sessions {
		names = append(names, s.Peer+"/"+s.Password+"/"+s.RouterID.String())
	}
	if diff := cmp.Diff([]string{"a/first/192.0.2.1", "b//192.0.2.1"}, names); diff != "" {
		t.Errorf("sessions (-want +got):\n%s", diff)
	}
	if ad := first.Advertisements["all"]; !ad.Here || len(ad.Attributes.Communities) != 1 {
		t.Errorf("advertisement %+v", ad)
	}
	if len(first.Faults) != 1 || first.Faults[0].Peer != "vrf" || first.Faults[0].Reason != reason.VRFNotSupported.String() {
		t.Errorf("faults %+v, want that of the VRF", first.Faults)
	}
	put(t, i, i.nodes, ownNode(map[string]string{"rack": "r1"}))
	if again := i.BGP(t.Context(), nil); &again.Sessions[0] != &first.Sessions[0] {
		t.Error("an equal configuration is another one")
	}
	// Only the session changes whose password did.
	put(t, i, i.bgp.secrets, secret("md5", "second"))
	second := i.BGP(t.Context(), nil)
	if second.Sessions[0].Password != "second" || second.Sessions[1] != first.Sessions[1] {
		t.Errorf("after a new password: %+v", second.Sessions)
	}
	if err := i.bgp.secrets.GetIndexer().Delete(secret("md5", "")); err != nil {
		t.Fatal(err)
	}
	third := i.BGP(t.Context(), nil)
	if len(third.Sessions) != 1 || !strings.Contains(third.Faults[0].Message, "no Secret of that name") || third.Faults[0].Reason != reason.NoPassword.String() {
		t.Errorf("without the Secret: %+v, faults %+v", third.Sessions, third.Faults)
	}
}

// A node whose object is gone for a moment keeps its sessions.
func TestBGPOutlivesItsNode(t *testing.T) {
	t.Parallel()
	i := copies(t)
	n := ownNode(map[string]string{"rack": "r1"})
	put(t, i, i.nodes, n)
	p := peer("a", "")
	p.Spec.NodeSelectors = []metav1.LabelSelector{{MatchLabels: map[string]string{"rack": "r1"}}}
	put(t, i, i.bgp.peers, p)
	if got := i.BGP(t.Context(), nil); len(got.Sessions) != 1 {
		t.Fatalf("sessions %+v", got.Sessions)
	}
	drop(t, i, i.nodes, n)
	if got := i.BGP(t.Context(), nil); len(got.Sessions) != 1 {
		t.Errorf("without the Node: %+v", got.Sessions)
	}
}

// What the node's links tell counts: a session from an address that it does not have is
// another node's.
func TestBGPFollowsInterfaces(t *testing.T) {
	t.Parallel()
	i := copies(t)
	p := peer("a", "")
	p.Spec.SourceAddress = "192.0.2.1"
	put(t, i, i.bgp.peers, p)
	with := func(a string) []loadbalancer.Interface {
		return []loadbalancer.Interface{{Name: "eth0", Prefixes: []netip.Prefix{netip.MustParsePrefix(a)}}}
	}
	if got := i.BGP(t.Context(), with("192.0.2.1/24")); len(got.Sessions) != 1 {
		t.Errorf("with the address: %+v", got)
	}
	if got := i.BGP(t.Context(), with("192.0.2.2/24")); len(got.Sessions) != 0 || len(got.Faults) != 0 {
		t.Errorf("without the address: %+v", got)
	}
}

func TestOnlySecretsThatAPeerNamesMatter(t *testing.T) {
	t.Parallel()
	i := copies(t)
	put(t, i, i.bgp.peers, peer("a", "md5"))
	if !i.named(secret("md5", "x")) || i.named(secret("other", "x")) {
		t.Error("the wrong Secrets matter")
	}
	out, err := i.slim(secret("md5", "x"))
	s, ok := out.(*corev1.Secret)
	if err != nil || !ok || string(s.Data["password"]) != "x" {
		t.Errorf("%+v, %v", out, err)
	}
	other := secret("md5", "x")
	other.Data = map[string][]byte{"username": []byte("u")}
	out, err = i.slim(other)
	if s, ok = out.(*corev1.Secret); err != nil || !ok || s.Data != nil {
		t.Errorf("kept %+v, %v", out, err)
	}
}

// server is an API server without objects; some kinds are refused.
type server struct {
	mu       sync.Mutex
	refuse   map[string]int
	peers    []*v1alpha1.BGPPeer
	selector string
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kind := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	s.mu.Lock()
	code, peers := s.refuse[kind], s.peers
	if kind == "secrets" {
		s.selector = r.URL.Path + "?" + r.URL.Query().Get("fieldSelector")
	}
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	q := r.URL.Query()
	switch {
	case code != 0:
		why := map[int]metav1.StatusReason{http.StatusNotFound: metav1.StatusReasonNotFound, http.StatusForbidden: metav1.StatusReasonForbidden}[code]
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(metav1.Status{Status: metav1.StatusFailure, Reason: why, Code: int32(code)})
	case q.Get("sendInitialEvents") == "true":
		w.WriteHeader(http.StatusUnprocessableEntity)
		_ = json.NewEncoder(w).Encode(metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonInvalid, Code: http.StatusUnprocessableEntity})
	case q.Get("watch") != "":
		w.WriteHeader(http.StatusOK)
		if err := http.NewResponseController(w).Flush(); err != nil {
			return // the client is gone
		}
		<-r.Context().Done()
	default:
		list := map[string]any{"metadata": map[string]any{"resourceVersion": "1"}, "items": []any{}}
		if kind == "bgppeers" && len(peers) > 0 {
			list["items"] = peers
		}
		_ = json.NewEncoder(w).Encode(list)
	}
}

func serve(t *testing.T, s http.Handler) *Intake {
	t.Helper()
	srv := httptest.NewServer(s)
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	cfg := &rest.Config{Host: srv.URL, QPS: -1}
	fl, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	core, err := corev1client.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	discovery, err := discoveryv1client.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	i, err := New(Clients{Fairlead: fl, Core: core, Discovery: discovery, Secrets: core}, Own{"n1", "fairlead-system"}, func() {})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = i.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return i
}

// An API server of an older installation has neither the kinds nor the permissions: the
// agent does without BGP.
func TestBGPKindsMayBeAbsent(t *testing.T) {
	t.Parallel()
	s := &server{refuse: map[string]int{
		"bgppeers": http.StatusNotFound, "bgpadvertisements": http.StatusNotFound, "bfdprofiles": http.StatusForbidden,
		"communities": http.StatusForbidden, "secrets": http.StatusForbidden,
	}}
	i := serve(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if !i.WaitSynced(ctx) {
		t.Fatal("not synced without the kinds of BGP")
	}
	if got := i.BGP(t.Context(), nil); len(got.Sessions) != 0 || len(got.Faults) != 0 {
		t.Errorf("%+v", got)
	}
	put(t, i, i.bgp.peers, peer("a", "md5"))
	if got := i.BGP(t.Context(), nil); len(got.Faults) != 1 || !strings.Contains(got.Faults[0].Message, "cannot read Secrets") {
		t.Errorf("faults %+v, want that Secrets cannot be read", got.Faults)
	}
}

// A server that cannot say what there is now is waited for: nothing is withdrawn meanwhile.
func TestBGPKindsAreWaitedFor(t *testing.T) {
	t.Parallel()
	s := &server{refuse: map[string]int{"bgppeers": http.StatusServiceUnavailable}, peers: []*v1alpha1.BGPPeer{peer("a", "")}}
	i := serve(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if i.WaitSynced(ctx) {
		t.Fatal("synced without the peers")
	}
	s.mu.Lock()
	s.refuse = nil
	s.mu.Unlock()
	ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if !i.WaitSynced(ctx) {
		t.Fatal("never synced")
	}
	if got := i.BGP(t.Context(), nil); len(got.Sessions) != 1 {
		t.Errorf("%+v", got)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if want := "/api/v1/namespaces/fairlead-system/secrets?type=kubernetes.io/basic-auth"; s.selector != want {
		t.Errorf("Secrets are read by %s, want %s", s.selector, want)
	}
}
