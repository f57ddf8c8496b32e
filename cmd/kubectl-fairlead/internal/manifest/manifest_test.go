// SPDX-License-Identifier: Apache-2.0

package manifest_test

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/manifest"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

func TestRead(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		in    string
		names []string
		fault string
	}{
		"empty":                   {in: ""},
		"comments only":           {in: "# nothing\n---\n# nothing\n"},
		"one":                     {in: "metadata: {name: a}\n", names: []string{"a"}},
		"separator with a text":   {in: "metadata: {name: a}\n--- # next\nmetadata: {name: b}\n--- {metadata: {name: c}}\n", names: []string{"a", "b", "c"}},
		"separator within a text": {in: "metadata: {name: a}\ndata: |\n  x\n  ---\n  y\n", names: []string{"a"}},
		"JSON":                    {in: `{"metadata": {"name": "a"}}`, names: []string{"a"}},
		"list":                    {in: "kind: List\nitems:\n- {metadata: {name: a}}\n- {kind: PodList, items: [{metadata: {name: b}}]}\n", names: []string{"a", "b"}},
		"empty list":              {in: "kind: List\nitems: []\n"},
		"kind that ends in List":  {in: "kind: AllowList\nmetadata: {name: a}\nitems: {a: b}\n", names: []string{"a"}},
		"anchors":                 {in: "metadata: &m {name: a}\ncopy: *m\n", names: []string{"a"}},
		"field given twice":       {in: "a: 1\na: 2\n", fault: "already set"},
		"text":                    {in: "hello\n", fault: "not an object"},
		"list of texts":           {in: "kind: List\nitems: [a]\n", fault: "item 1"},
		"second document broken":  {in: "a: 1\n---\n[1, 2]\n", fault: "document 2"},
		"not YAML":                {in: "a: [", fault: "parse YAML"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			objects, err := manifest.Read("f", strings.NewReader(tt.in))
			if tt.fault != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fault) {
					t.Errorf("error %v, want one with %q", err, tt.fault)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, o := range objects {
				names = append(names, o.Name())
			}
			if !reflect.DeepEqual(names, tt.names) {
				t.Errorf("names %q, want %q", names, tt.names)
			}
		})
	}
}

// kubectl's YAML 1.1: yes and on are true, whole numbers stay whole.
func TestReadTypes(t *testing.T) {
	t.Parallel()
	objects, err := manifest.Read("f", strings.NewReader("a: yes\nb: on\nc: 9007199254740993\nd: '7'\ne: 0.5\nf: null\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"a": true, "b": true, "c": int64(9007199254740993), "d": "7", "e": 0.5, "f": nil}
	if !reflect.DeepEqual(objects[0].Fields, want) {
		t.Errorf("got %#v, want %#v", objects[0].Fields, want)
	}
}

func TestTypedListItems(t *testing.T) {
	t.Parallel()
	objects, err := manifest.Read("f", strings.NewReader("apiVersion: x/v1\nkind: FooList\nitems:\n- metadata: {name: a}\n"))
	if err != nil || len(objects) != 1 || objects[0].Kind() != "Foo" || objects[0].APIVersion() != "x/v1" {
		t.Errorf("%+v, %v", objects, err)
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{"b.yaml": "metadata: {name: b}", "a.json": `{"metadata": {"name": "a"}}`, "c.txt": "[", "d/e.yaml": "["} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	objects, err := manifest.Load(strings.NewReader("metadata: {name: stdin}"), []string{dir, "-"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, o := range objects {
		names = append(names, o.Name())
	}
	if strings.Join(names, " ") != "a b stdin" {
		t.Errorf("read %q", names)
	}
	for _, missing := range []string{filepath.Join(dir, "none"), t.TempDir()} {
		if _, err := manifest.Load(nil, []string{missing}); err == nil {
			t.Errorf("no error for %s", missing)
		}
	}
}

func TestDecodeIsStrict(t *testing.T) {
	t.Parallel()
	objects, err := manifest.Read("f", strings.NewReader("spec: {addresses: [10.0.0.0/8], colour: red}\n"))
	if err != nil {
		t.Fatal(err)
	}
	var p v1alpha1.IPAddressPool
	if err := manifest.Decode(objects[0], &p); err == nil || !strings.Contains(err.Error(), "spec.colour") {
		t.Errorf("error %v", err)
	}
}

// Whatever can be read can be written, and reads the same again.
func FuzzRead(f *testing.F) {
	for _, s := range []string{
		"", "a: 1\n---\nb: 2\n", "--- # x\na: |\n  ---\n", `{"kind": "List", "items": [{"a": 1}, {"kind": "XList", "items": []}]}`,
		"a: &x [1]\nb: *x\n", "a: yes\n", "? [a]\n: b\n", "%YAML 1.1\n---\na: 1\n...\n---\nb: 1\n", "\xef\xbb\xbfa: 1\n", "a: !!binary aGk=\n", "<<: {a: 1}\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		objects, err := manifest.Read("f", bytes.NewReader(data))
		if err != nil {
			return
		}
		var fields []map[string]any
		for _, o := range objects {
			fields = append(fields, o.Fields)
		}
		var out bytes.Buffer
		if err := manifest.Write(&out, fields); err != nil {
			t.Fatalf("write %#v: %v", fields, err)
		}
		again, err := manifest.Read("f", &out)
		if err != nil || len(again) != len(objects) {
			t.Fatalf("read again: %d objects instead of %d, %v", len(again), len(objects), err)
		}
		for i := range objects {
			if !reflect.DeepEqual(objects[i].Fields, again[i].Fields) {
				t.Errorf("%#v became %#v", objects[i].Fields, again[i].Fields)
			}
		}
	})
}
