// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/plan"
)

// Each testdata/forward/*.txtar is a cluster: a comment that says what is shown, objects as
// YAML beside those of base.yaml, settings of the snapshot, one per line, and what every
// node is to forward.
func TestForwardingGolden(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("testdata/forward/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			t.Parallel()
			text := read(t, path)
			script, want, ok := strings.Cut(text, "-- want --\n")
			if !ok && !*update {
				t.Fatal("no -- want --")
			}
			got := forwards(parseScript(t, script))
			if *update {
				if err := os.WriteFile(path, []byte(script+"-- want --\n"+got), 0o600); err != nil {
					t.Fatal(err)
				}
				want = got
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("forwarding (-want +got):\n%s", diff)
			}
		})
	}
}

func read(tb testing.TB, path string) string {
	tb.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return string(data)
}

// forwards is what each node forwards; nodes that forward the same are put together.
func forwards(s plan.Snapshot) string {
	dumps := make(map[string][]string)
	var order []string
	for _, n := range slices.Sorted(maps.Keys(s.Nodes)) {
		s.Self = n
		text := dump(plan.For(s).Forwarding)
		if dumps[text] == nil {
			order = append(order, text)
		}
		dumps[text] = append(dumps[text], string(n))
	}
	var b strings.Builder
	for _, text := range order {
		b.WriteString("# " + strings.Join(dumps[text], " ") + "\n" + text)
	}
	return b.String()
}

// parseScript reads a script up to its want.
func parseScript(tb testing.TB, script string) plan.Snapshot {
	tb.Helper()
	_, rest, ok := strings.Cut(script, "-- objects --\n")
	if !ok {
		tb.Fatal("no -- objects --")
	}
	objects, settings, _ := strings.Cut(rest, "-- settings --\n")
	c := &objectsOf{weights: map[loadbalancer.NodeName]uint16{}, slices: map[loadbalancer.ServiceKey][]*discoveryv1.EndpointSlice{}}
	c.Snapshot = plan.Snapshot{
		Forwards: true, Records: map[loadbalancer.ServiceUID]loadbalancer.Record{}, Nodes: map[loadbalancer.NodeName]loadbalancer.Node{},
		Endpoints: map[loadbalancer.ServiceKey]loadbalancer.Endpoints{}, Members: map[loadbalancer.NodeName]plan.Member{}, Dead: nodeSet(),
	}
	for _, doc := range slices.Concat(split(read(tb, "testdata/forward/base.yaml")), split(objects)) {
		c.add(tb, []byte(doc))
	}
	for key, of := range c.slices {
		e := convert.EndpointsOf(of)
		var err error
		if e.Backends, err = convert.BackendsOf(of, c.weights); err != nil {
			tb.Error(err)
		}
		c.Endpoints[key] = e
	}
	for line := range strings.Lines(settings) {
		c.set(tb, strings.Fields(line))
	}
	return c.Snapshot
}

func split(docs string) []string {
	return slices.DeleteFunc(strings.Split(docs, "---\n"), func(doc string) bool { return strings.TrimSpace(doc) == "" })
}

type objectsOf struct {
	plan.Snapshot
	weights map[loadbalancer.NodeName]uint16
	slices  map[loadbalancer.ServiceKey][]*discoveryv1.EndpointSlice
}

func (c *objectsOf) add(tb testing.TB, doc []byte) {
	tb.Helper()
	var kind struct {
		Kind string `json:"kind"`
	}
	if err := yaml.Unmarshal(doc, &kind); err != nil {
		tb.Fatalf("%v: %s", err, doc)
	}
	switch kind.Kind {
	case "Node":
		c.node(tb, decode[corev1.Node](tb, doc))
	case "LoadBalancer":
		r, err := convert.Record(decode[v1alpha1.LoadBalancer](tb, doc))
		check(tb, err)
		c.Records[r.UID] = r
	case "IPClaim":
		claim, err := convert.Claim(decode[v1alpha1.IPClaim](tb, doc))
		check(tb, err)
		c.Claims = append(c.Claims, claim)
	case "EndpointSlice":
		s := decode[discoveryv1.EndpointSlice](tb, doc)
		key := loadbalancer.ServiceKey{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
		c.slices[key] = append(c.slices[key], s)
	default:
		tb.Fatalf("kind %q", kind.Kind)
	}
}

// node adds a Node, whose agent is a member with the same addresses.
func (c *objectsOf) node(tb testing.TB, in *corev1.Node) {
	tb.Helper()
	n := convert.Node(in)
	c.Nodes[n.Name] = n
	m := plan.Member{Known: true, Interfaces: []loadbalancer.Interface{{Name: "eth0"}}}
	for _, a := range n.Addrs {
		m.Interfaces[0].Prefixes = append(m.Interfaces[0].Prefixes, netip.PrefixFrom(a, a.BitLen()-8))
	}
	c.Members[n.Name] = m
	weight, err := convert.Weight(in.Annotations)
	check(tb, err)
	if weight > 0 {
		c.weights[n.Name] = weight
	}
}

// set does one line of settings.
func (c *objectsOf) set(tb testing.TB, words []string) {
	tb.Helper()
	for _, w := range words[1:] {
		switch words[0] {
		case "dead":
			c.Dead[loadbalancer.NodeName(w)] = struct{}{}
		case "in-cluster":
			c.InCluster = append(c.InCluster, netip.MustParsePrefix(w))
		case "gateway":
			member(c.Snapshot, "a", func(m *plan.Member) { m.Gateways = append(m.Gateways, addr(w)) })
		case "forwards":
			c.Forwards = w == "yes"
		default:
			tb.Fatalf("setting %q", words[0])
		}
	}
}

func decode[T any](tb testing.TB, doc []byte) *T {
	tb.Helper()
	out := new(T)
	if err := yaml.UnmarshalStrict(doc, out); err != nil {
		tb.Fatalf("%v: %s", err, doc)
	}
	return out
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Error(err)
	}
}
