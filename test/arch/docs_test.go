// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Links between documents break silently when a file moves.
func TestMarkdownLinks(t *testing.T) {
	t.Parallel()
	code := regexp.MustCompile("(?s)```.*?```|`[^`\n]*`")
	link := regexp.MustCompile(`\]\(([^)#\s*[\]]+)(#[^)]*)?\)`)
	checked := 0
	for path, data := range textFiles(t, func(name string) bool { return strings.HasSuffix(name, ".md") }) {
		for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(string(data), ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			checked++
			if _, err := os.Stat(filepath.Join(root(t), filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s links to %s, which is not there", path, m[1])
			}
		}
	}
	if checked == 0 {
		t.Error("found no link to check")
	}
}

// A reason that nobody explains is no better than an error number.
func TestEveryReasonIsDocumented(t *testing.T) {
	t.Parallel()
	source := readFile(t, "loadbalancer/reason/reason.go")
	names := regexp.MustCompile(`(?m)^\t[A-Za-z]+ Reason = "([A-Za-z]+)"`).FindAllStringSubmatch(source, -1)
	if len(names) < 10 {
		t.Fatalf("found %d reasons only", len(names))
	}
	table := readFile(t, "docs/reference/reasons.md")
	for _, m := range names {
		if !strings.Contains(table, "| `"+m[1]+"` |") {
			t.Errorf("docs/reference/reasons.md has no row for %s", m[1])
		}
	}
	known := make(map[string]bool)
	for _, m := range names {
		known[m[1]] = true
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Za-z]+)` \\|").FindAllStringSubmatch(table, -1) {
		if !known[m[1]] {
			t.Errorf("docs/reference/reasons.md explains %s, which the code does not know", m[1])
		}
	}
}

func TestEveryAnnotationIsDocumented(t *testing.T) {
	t.Parallel()
	source := readFile(t, "loadbalancer/api/v1alpha1/annotations.go")
	page := readFile(t, "docs/reference/annotations.md")
	names := regexp.MustCompile(`(?m)^\t[A-Za-z0-9]+\s+= (?:PrefixFairlead \+ )?"([^"]+)"`).FindAllStringSubmatch(source, -1)
	if len(names) < 5 {
		t.Fatalf("found %d names only", len(names))
	}
	for _, m := range names {
		if !strings.Contains(page, m[1]) {
			t.Errorf("docs/reference/annotations.md does not mention %q", m[1])
		}
	}
}

func TestAgentFlagsAndMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	tests := []struct {
		source, pattern, page, format string
	}{
		{"nodeagent/options.go", `fs\.\w+Var\(&[\w.]+, "([a-z-]+)"`, "docs/reference/flags-and-ports.md", "`--%s`"},
		{"nodeagent/internal/metrics/metrics.go", `(?:gauge\(|counter\(|Name: )"([a-z_]+)"`, "docs/reference/metrics.md", "`fairlead_agent_%s`"},
	}
	for _, tt := range tests {
		names := regexp.MustCompile(tt.pattern).FindAllStringSubmatch(readFile(t, tt.source), -1)
		if len(names) < 5 {
			t.Errorf("%s: found %d names only", tt.source, len(names))
		}
		page := readFile(t, tt.page)
		for _, m := range names {
			if want := fmt.Sprintf(tt.format, m[1]); !strings.Contains(page, want) {
				t.Errorf("%s does not mention %s", tt.page, want)
			}
		}
	}
}

// The ports are an interface to firewalls and to other software on the node: manifest
// and documents must say the same.
func TestPortsAreDocumented(t *testing.T) {
	t.Parallel()
	manifests := readFile(t, "deploy/kustomize/base/controller.yaml") + readFile(t, "deploy/kustomize/base/node-agent.yaml")
	for _, page := range []string{"README.md", "docs/reference/flags-and-ports.md"} {
		text := readFile(t, page)
		for _, port := range []string{"7956", "7957", "7480", "10268"} {
			if !strings.Contains(manifests, port) || !strings.Contains(text, port) {
				t.Errorf("port %s is not in both the manifests and %s", port, page)
			}
		}
	}
}

// Who installs Fairlead as shipped does not open a port for routers, nor grant the right to.
func TestListeningForRoutersIsOptIn(t *testing.T) {
	t.Parallel()
	const flag, capability = "--bgp-listen-port=179", "NET_BIND_SERVICE"
	component := readFile(t, "deploy/kustomize/components/bgp-listen/kustomization.yaml")
	base := readFile(t, "deploy/kustomize/base/node-agent.yaml")
	for _, words := range []string{flag, capability} {
		if !strings.Contains(component, "value: "+words+"\n") || strings.Contains(base, words) {
			t.Errorf("%s is not the component's alone", words)
		}
	}
	// The component adds to lists that have to be there.
	for _, words := range []string{"          args:\n            - ", "              add: [NET_ADMIN, NET_RAW]\n"} {
		if !strings.Contains(base, words) {
			t.Errorf("the agent's manifest has no %q", words)
		}
	}
	if !strings.Contains(readFile(t, "deploy/kustomize/overlays/bgp-listen/kustomization.yaml"), "../../components/bgp-listen") {
		t.Error("the overlay is without the component")
	}
	if !strings.Contains(readFile(t, "nodeagent/options.go"), `"bgp-listen-port"`) {
		t.Error("the agent does not know the flag")
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root(t), path))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
