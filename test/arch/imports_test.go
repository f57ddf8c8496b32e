// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/fairlead-lb/fairlead/"

// goPackage is what the tests read of `go list -json`.
type goPackage struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

// rule says who may not import what, and why.
type rule struct {
	name string
	why  string
	// from selects the importing package by its path below the module.
	from func(path string) bool
	// forbids selects what it may not import, by full import path.
	forbids func(imported string) bool
	// deep checks everything linked in, not only what the files name.
	deep bool
}

func rules() []rule {
	return []rule{
		{
			name:    "provider does not import nodeagent",
			why:     "control plane and node share only loadbalancer; records are their contract",
			from:    under("provider"),
			forbids: ours("nodeagent"),
		},
		{
			name:    "nodeagent does not import provider",
			why:     "the agent must work with the controller away, so it may not lean on its code",
			from:    under("nodeagent"),
			forbids: ours("provider"),
		},
		{
			name:    "the domain imports neither adapter nor command nor test",
			why:     "loadbalancer is the core that both sides agree on",
			from:    under("loadbalancer"),
			forbids: anyOf(ours("provider"), ours("nodeagent"), ours("cmd"), ours("test")),
		},
		{
			name: "the domain takes values, not clients and kernels",
			why:  "pure code is tested by tables and properties, without a cluster and without root",
			from: func(p string) bool {
				return under("loadbalancer")(p) && !under("loadbalancer/client")(p)
			},
			forbids: func(i string) bool {
				thirdParty := strings.Contains(strings.SplitN(i, "/", 2)[0], ".") && !strings.HasPrefix(i, module)
				types := strings.HasPrefix(i, "k8s.io/api/") || strings.HasPrefix(i, "k8s.io/apimachinery/")
				return thirdParty && !types || i == "net/http" || i == "os/exec" || i == "syscall"
			},
		},
		{
			name:    "allocation, placement and planning do not read API objects",
			why:     "conversion happens once, in loadbalancer/convert; deciders see comparable values",
			from:    anyOf(under("loadbalancer/pool"), under("loadbalancer/placement"), under("loadbalancer/plan")),
			forbids: anyOf(prefix("k8s.io/api/"), prefix(module+"loadbalancer/api"), prefix(module+"loadbalancer/client")),
		},
		{
			name: "only nodeagent/internal/kernel touches the kernel",
			why:  "one package to review for privileges, one fake to replace it in tests",
			from: func(p string) bool {
				return (under("nodeagent")(p) || under("provider")(p) || under("cmd")(p)) && !under("nodeagent/internal/kernel")(p)
			},
			forbids: anyOf(
				prefix("github.com/vishvananda/netlink"), prefix("github.com/mdlayher/packet"),
				prefix("github.com/mdlayher/socket"), prefix("golang.org/x/sys/unix")),
		},
		{
			name: "memberlist stays behind nodeagent/internal/member",
			why:  "it is a detector, never an arbiter: nothing else may ask it who owns what",
			from: func(p string) bool {
				return !under("nodeagent/internal/member")(p)
			},
			forbids: prefix("github.com/hashicorp/memberlist"),
		},
		{
			name: "announcers do not import each other",
			why:  "they are thin actuators; what is announced where is the plan's decision",
			from: under("nodeagent/internal/announce"),
			forbids: anyOf(ours("nodeagent/internal/member"), ours("nodeagent/internal/intake"),
				ours("nodeagent/internal/status")),
		},
		{
			name:    "product code does not import test code",
			why:     "what ships must not carry the lab and the harness",
			from:    anyOf(under("cmd"), under("loadbalancer"), under("nodeagent"), under("provider")),
			forbids: ours("test"),
		},
		{
			name:    "the node agent does not link the cloud provider framework",
			why:     "it runs on every node: k8s.io/apiserver and cloud-provider would triple its size",
			from:    under("cmd/fairlead-node-agent"),
			forbids: anyOf(prefix("k8s.io/cloud-provider"), prefix("k8s.io/apiserver/"), prefix("k8s.io/controller-manager")),
			deep:    true,
		},
		{
			name:    "the controller does not link the kernel's libraries",
			why:     "it runs without a capability, so code that needs one has no place in it",
			from:    under("cmd/fairlead-cloud-controller-manager"),
			forbids: anyOf(prefix("github.com/vishvananda/netlink"), prefix("github.com/mdlayher/"), prefix("github.com/hashicorp/memberlist")),
			deep:    true,
		},
		{
			name:    "nothing imports a command",
			why:     "what is shared belongs below provider, nodeagent or loadbalancer; a command's internal packages are its own, the compiler sees to that",
			from:    func(string) bool { return true },
			forbids: func(i string) bool { return ours("cmd")(i) && !strings.Contains(i, "/internal/") },
		},
	}
}

func TestImports(t *testing.T) {
	t.Parallel()
	packages := listPackages(t)
	for _, r := range rules() {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			for _, p := range packages {
				if !r.from(strings.TrimPrefix(p.ImportPath, module)) {
					continue
				}
				imports := p.Imports
				if r.deep {
					imports = p.Deps
				}
				for _, i := range imports {
					if i != p.ImportPath && r.forbids(i) {
						t.Errorf("%s imports %s: %s", p.ImportPath, i, r.why)
					}
				}
			}
		})
	}
}

// The rules themselves must bite, or a typing error in a path would pass for ever.
func TestRulesBite(t *testing.T) {
	t.Parallel()
	tests := []struct{ rule, from, imported string }{
		{"provider does not import nodeagent", "provider/internal/store", module + "nodeagent"},
		{"nodeagent does not import provider", "nodeagent", module + "provider"},
		{"the domain imports neither adapter nor command nor test", "loadbalancer/client", module + "provider"},
		{"the domain takes values, not clients and kernels", "loadbalancer/plan", "k8s.io/client-go/kubernetes"},
		{"allocation, placement and planning do not read API objects", "loadbalancer/pool", "k8s.io/api/core/v1"},
		{"only nodeagent/internal/kernel touches the kernel", "nodeagent/internal/announce/arp", "github.com/mdlayher/packet"},
		{"memberlist stays behind nodeagent/internal/member", "nodeagent", "github.com/hashicorp/memberlist"},
		{"announcers do not import each other", "nodeagent/internal/announce/arp", module + "nodeagent/internal/member"},
		{"product code does not import test code", "nodeagent", module + "test/harness"},
		{"the node agent does not link the cloud provider framework", "cmd/fairlead-node-agent", "k8s.io/cloud-provider/app"},
		{"the controller does not link the kernel's libraries", "cmd/fairlead-cloud-controller-manager", "github.com/mdlayher/packet"},
		{"nothing imports a command", "test/e2e", module + "cmd/fairlead-node-agent"},
	}
	all := make(map[string]rule)
	for _, r := range rules() {
		all[r.name] = r
	}
	if len(tests) != len(all) {
		t.Errorf("%d rules, %d of them shown to bite", len(all), len(tests))
	}
	for _, tt := range tests {
		r, ok := all[tt.rule]
		if !ok {
			t.Errorf("no rule %q", tt.rule)
			continue
		}
		if !r.from(tt.from) || !r.forbids(tt.imported) {
			t.Errorf("%q lets %s import %s", tt.rule, tt.from, tt.imported)
		}
	}
}

func under(dir string) func(string) bool {
	return func(p string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }
}

func ours(dir string) func(string) bool {
	return func(i string) bool {
		path, ok := strings.CutPrefix(i, module)
		return ok && under(dir)(path)
	}
}

func prefix(s string) func(string) bool {
	return func(i string) bool { return strings.HasPrefix(i, s) }
}

func anyOf(fs ...func(string) bool) func(string) bool {
	return func(s string) bool {
		for _, f := range fs {
			if f(s) {
				return true
			}
		}
		return false
	}
}

// listPackages lists the module's packages with every build tag that the tests use.
func listPackages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-tags", "kernel,e2e", "-json=ImportPath,Imports,Deps", "./...")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var packages []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("decode go list: %v", err)
		}
		packages = append(packages, p)
	}
	if len(packages) < 5 {
		t.Fatalf("go list found %d packages only", len(packages))
	}
	return packages
}
