// SPDX-License-Identifier: Apache-2.0

package command_test

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/manifest"
)

// fakeServer is an API server over objects in memory: lists, gets and, for IPClaims,
// creates. Everything else, above all any other write, fails the test.
type fakeServer struct {
	t         *testing.T
	mu        sync.Mutex
	objects   map[string][]manifest.Object // by group/version/resource
	forbidden []string                     // resources
	created   []map[string]any
}

// resourceOf returns the path below which a kind's objects are served.
func resourceOf(kind string) string {
	switch kind {
	case "NetworkPolicy", "Community", "ExternalIPPolicy":
		return strings.ToLower(strings.TrimSuffix(kind, "y")) + "ies"
	default:
		return strings.ToLower(kind) + "s"
	}
}

func (s *fakeServer) add(o manifest.Object) {
	key := o.APIVersion() + "/" + resourceOf(o.Kind())
	s.objects[key] = append(s.objects[key], o)
}

// kinds lists what an API server has even when there is no object of it, with its kind.
func kinds() map[string]string {
	f := "fairlead.dev/v1alpha1/"
	return map[string]string{
		f + "ipaddresspools": "IPAddressPool", f + "l2advertisements": "L2Advertisement", f + "ipclaims": "IPClaim",
		f + "loadbalancers": "LoadBalancer", f + "nodeagents": "NodeAgent", f + "externalippolicies": "ExternalIPPolicy",
		f + "bgppeers": "BGPPeer", f + "bgpadvertisements": "BGPAdvertisement",
		"v1/services": "Service", "v1/namespaces": "Namespace", "v1/nodes": "Node", "v1/configmaps": "ConfigMap",
		"networking.k8s.io/v1/servicecidrs": "ServiceCIDR", "discovery.k8s.io/v1/endpointslices": "EndpointSlice",
	}
}

// start serves and returns the path of a kubeconfig whose context has namespace "default".
func (s *fakeServer) start() string {
	srv := httptest.NewServer(s)
	s.t.Cleanup(srv.Close)
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters["c"] = &clientcmdapi.Cluster{Server: srv.URL}
	cfg.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: "t"}
	cfg.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	cfg.CurrentContext = "x"
	path := filepath.Join(s.t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*cfg, path); err != nil {
		s.t.Fatal(err)
	}
	return path
}

func (s *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/apis/"), "/api/")
	parts := strings.Split(path, "/")
	n := 2 // group and version, or v1
	if parts[0] == "v1" {
		n = 1
	}
	version, rest := strings.Join(parts[:n], "/"), parts[n:]
	namespace := ""
	if len(rest) > 2 && rest[0] == "namespaces" {
		namespace, rest = rest[1], rest[2:]
	}
	key := version + "/" + rest[0]
	name := strings.Join(rest[1:], "/")
	items := slices.DeleteFunc(slices.Clone(s.objects[key]), func(o manifest.Object) bool {
		return namespace != "" && o.Namespace() != namespace || name != "" && o.Name() != name
	})
	switch {
	case slices.Contains(s.forbidden, rest[0]):
		refuse(w, http.StatusForbidden, metav1.StatusReasonForbidden, rest[0]+" is forbidden")
	case s.objects[key] == nil && kinds()[key] == "":
		refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource")
	case r.Method == http.MethodPost && rest[0] == "ipclaims":
		s.create(w, r, key)
	case r.Method != http.MethodGet:
		s.t.Errorf("unexpected write: %s %s", r.Method, r.URL)
		refuse(w, http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, r.Method)
	case name == "":
		list := make([]any, 0, len(items))
		for _, o := range items {
			list = append(list, o.Fields)
		}
		answer(w, http.StatusOK, map[string]any{"apiVersion": version, "kind": cmp.Or(kinds()[key], "Any") + "List", "metadata": map[string]any{"resourceVersion": "1"}, "items": list})
	case len(items) == 0:
		refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound, rest[0]+" "+name+" not found")
	default:
		answer(w, http.StatusOK, items[0].Fields)
	}
}

func (s *fakeServer) create(w http.ResponseWriter, r *http.Request, key string) {
	var fields map[string]any
	if err := json.NewDecoder(r.Body).Decode(&fields); err != nil {
		s.t.Errorf("decode %s: %v", r.URL, err)
	}
	o := manifest.Object{Fields: fields}
	if slices.ContainsFunc(s.objects[key], func(other manifest.Object) bool { return other.Name() == o.Name() }) {
		refuse(w, http.StatusConflict, metav1.StatusReasonAlreadyExists, o.Name()+" already exists")
		return
	}
	if r.URL.Query().Get("dryRun") == "" {
		s.objects[key] = append(s.objects[key], o)
		delete(fields, "status")
		if meta, ok := fields["metadata"].(map[string]any); ok {
			delete(meta, "creationTimestamp")
		}
		s.created = append(s.created, fields)
	}
	answer(w, http.StatusCreated, fields)
}

func refuse(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	answer(w, code, metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure,
		Reason: reason, Code: int32(code), Message: message,
	})
}

func answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // a client that went away is no fault of the server
}

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
