// SPDX-License-Identifier: Apache-2.0

//go:build !kernel

package surroundings

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

var errNobody = errors.New("connection refused")

// recorded is a node as its programs described it.
type recorded struct {
	links []string
	// answers of kube-proxy by path; what it does not say fails.
	answers map[string]string
	// tables are "family name" of testdata/<family>-<name>.json.
	tables []string
}

func (r recorded) looker() *Looker {
	return &Looker{
		links: func() ([]string, error) { return r.links, nil },
		get: func(_ context.Context, path string) ([]byte, error) {
			if a, ok := r.answers[path]; ok {
				return []byte(a), nil
			}
			return nil, errNobody
		},
		nft: func(_ context.Context, args ...string) ([]byte, error) {
			if args[1] == "tables" {
				var objects []string
				for _, t := range r.tables {
					family, name, _ := strings.Cut(t, " ")
					objects = append(objects, `{"table": {"family": "`+family+`", "name": "`+name+`", "handle": 1}}`)
				}
				return []byte(`{"nftables": [` + strings.Join(objects, ", ") + `]}`), nil
			}
			return os.ReadFile(filepath.Join("testdata", args[2]+"-"+args[3]+".json"))
		},
	}
}

func TestLook(t *testing.T) {
	t.Parallel()
	links := []string{"lo", "eth0", "cni0", "veth1234"}
	configz := `{"kubeproxy.config.k8s.io":{"mode":"ipvs","ipvs":{"excludeCIDRs":["172.20.255.0/24","fd20::/64"]}}}`
	for name, tt := range map[string]struct {
		node recorded
		want Report
	}{
		"plain":                       {recorded{links: links}, Report{}},
		"kube-proxy says iptables":    {recorded{links: links, answers: map[string]string{"/proxyMode": "iptables"}}, Report{KubeProxy: IPTables}},
		"kube-proxy says nftables":    {recorded{links: links, answers: map[string]string{"/proxyMode": "nftables"}}, Report{KubeProxy: NFTables}},
		"something else listens":      {recorded{links: links, answers: map[string]string{"/proxyMode": "<html>"}}, Report{}},
		"kube-proxy left its table":   {recorded{links: links, tables: []string{"ip kube-proxy", "ip6 kube-proxy"}}, Report{KubeProxy: NFTables}},
		"kube-proxy left its link":    {recorded{links: append(links, "kube-ipvs0")}, Report{KubeProxy: IPVS}},
		"ipvs mode with exclusions":   {recorded{links: links, answers: map[string]string{"/proxyMode": "ipvs", "/configz": configz}}, Report{KubeProxy: IPVS, ExcludeCIDRs: []netip.Prefix{netip.MustParsePrefix("172.20.255.0/24"), netip.MustParsePrefix("fd20::/64")}}},
		"Calico":                      {recorded{links: append(links, "cali0123456789a")}, Report{CNI: "calico", Against: reason.CNIBypassed}},
		"Cilium":                      {recorded{links: append(links, "cilium_host")}, Report{CNI: "cilium", Against: reason.CNIBypassed}},
		"ufw":                         {recorded{links: links, tables: []string{"ip filter"}}, Report{Against: reason.HostFirewall}},
		"firewalld":                   {recorded{links: links, tables: []string{"inet firewalld"}}, Report{Against: reason.HostFirewall}},
		"a firewall that knows":       {recorded{links: links, tables: []string{"inet knows"}}, Report{}},
		"tables that are no firewall": {recorded{links: links, tables: []string{"ip nat", "ip mangle", "inet fairlead", "bridge filter"}}, Report{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := tt.node.looker().Look(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if (got.Message != "") != (got.Against != "") {
				t.Errorf("against %q says %q", got.Against, got.Message)
			}
			got.Message = ""
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Errorf("report (-want +got):\n%s", diff)
			}
		})
	}
}

// What cannot be read is an error, and hides nothing else.
func TestLookReportsTheRest(t *testing.T) {
	t.Parallel()
	l := recorded{links: []string{"cilium_host"}, tables: []string{"inet missing", "ip filter"}}.looker()
	r, err := l.Look(t.Context())
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	if r.CNI != "cilium" {
		t.Errorf("CNI %q", r.CNI)
	}
	l.links = func() ([]string, error) { return nil, errNobody }
	if r, err = l.Look(t.Context()); !errors.Is(err, errNobody) || r.Against != reason.HostFirewall {
		t.Errorf("against %q, error %v", r.Against, err)
	}
}

func TestExcludes(t *testing.T) {
	t.Parallel()
	in, out := netip.MustParseAddr("172.20.255.1"), netip.MustParseAddr("172.21.0.1")
	r := Report{KubeProxy: IPVS, ExcludeCIDRs: []netip.Prefix{netip.MustParsePrefix("172.20.255.0/24")}}
	if !r.Excludes(in) || r.Excludes(out) {
		t.Errorf("excludes %s: %t, %s: %t", in, r.Excludes(in), out, r.Excludes(out))
	}
	for _, m := range []Mode{"", IPTables, NFTables} {
		if r = (Report{KubeProxy: m}); !r.Excludes(out) {
			t.Errorf("kube-proxy in mode %q removes virtual servers", m)
		}
	}
}

// Whatever nft lists, reading it ends without a verdict rather than with a crash.
func FuzzRule(f *testing.F) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) < 3 {
		f.Fatalf("%d files, error %v", len(files), err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(data))
	}
	f.Add(`{"nftables": [{"chain": {"name": "a", "hook": "input"}}, {"rule": {"chain": "a", "expr": [{"jump": {"target": "a"}}]}}]}`)
	f.Fuzz(func(t *testing.T, data string) {
		l := recorded{}.looker()
		l.nft = func(context.Context, ...string) ([]byte, error) { return []byte(data), nil }
		if name, err := l.firewall(t.Context(), []table{{Family: "inet", Name: "a"}}); err != nil && name != "" {
			t.Errorf("%q drops, yet %v", name, err)
		}
	})
}
