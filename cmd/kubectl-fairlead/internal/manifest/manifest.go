// SPDX-License-Identifier: Apache-2.0

// Package manifest reads and writes streams of Kubernetes objects as kubectl knows
// them: YAML or JSON, several documents, lists within. It loses nothing: a document
// that it cannot read in full is an error with the place in the file. It knows no kind
// and asks no server; the plugin's other packages call it.
package manifest

import (
	"bytes"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	yamlv3 "go.yaml.in/yaml/v3"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// maxBytes bounds one file. An etcd of the largest usual size has 8 GiB of everything;
// pools, claims and Services of a cluster are far below this.
const maxBytes = 256 << 20

// Object is one object as written.
type Object struct {
	// Source says where it stands, for messages: "pools.yaml" or "pools.yaml, document 2".
	Source string
	// Fields are its top level fields. Whole numbers are int64.
	Fields map[string]any
}

func (o Object) text(path ...string) string {
	m := o.Fields
	for _, key := range path[:len(path)-1] {
		m, _ = m[key].(map[string]any)
	}
	s, _ := m[path[len(path)-1]].(string)
	return s
}

// APIVersion returns apiVersion, empty when there is none.
func (o Object) APIVersion() string { return o.text("apiVersion") }

// Kind returns kind, empty when there is none.
func (o Object) Kind() string { return o.text("kind") }

// Name returns metadata.name, empty when there is none.
func (o Object) Name() string { return o.text("metadata", "name") }

// Namespace returns metadata.namespace, empty when there is none.
func (o Object) Namespace() string { return o.text("metadata", "namespace") }

// Load reads files, directories (their .yaml, .yml and .json files by name, not those
// of directories below) and, for "-", stdin.
func Load(stdin io.Reader, paths []string) ([]Object, error) {
	var out []Object
	for _, path := range paths {
		files := []string{path}
		if info, err := os.Stat(path); path != "-" && err == nil && info.IsDir() {
			if files, err = filesIn(path); err != nil {
				return nil, err
			}
		}
		for _, f := range files {
			objects, err := load(stdin, f)
			if err != nil {
				return nil, err
			}
			out = append(out, objects...)
		}
	}
	return out, nil
}

func filesIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return nil, fmt.Errorf("read directory: %w", err)
	}
	var out []string
	for _, e := range entries {
		if slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(e.Name())) && !e.IsDir() {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("directory %s has no .yaml, .yml or .json file", dir)
	}
	return out, nil
}

func load(stdin io.Reader, path string) ([]Object, error) {
	if path == "-" {
		return Read("stdin", stdin)
	}
	f, err := os.Open(path) //nolint:gosec // the user names the file
	if err != nil {
		return nil, fmt.Errorf("open file: %w", err)
	}
	objects, err := Read(path, f)
	return objects, errors.Join(err, f.Close())
}

// Read reads every object of a stream; the objects of lists are returned one by one.
// Empty documents are skipped. A field given twice is an error, because one of the two
// would be lost.
func Read(name string, r io.Reader) ([]Object, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) > maxBytes {
		return nil, fmt.Errorf("read %s: more than %d bytes", name, maxBytes)
	}
	documents, err := split(data)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	var out []Object
	for i, doc := range documents {
		source := name
		if len(documents) > 1 {
			source = fmt.Sprintf("%s, document %d", name, i+1)
		}
		fields, err := Fields(doc)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", source, err)
		}
		if len(fields) == 0 {
			continue
		}
		objects, err := flatten(Object{Source: source, Fields: fields})
		if err != nil {
			return nil, err
		}
		out = append(out, objects...)
	}
	return out, nil
}

// split cuts a stream into documents. It asks the YAML parser, because a line that
// begins with "---" may be part of a text, and a separator may be followed by one.
func split(data []byte) ([][]byte, error) {
	var out [][]byte
	dec := yamlv3.NewDecoder(bytes.NewReader(data))
	for {
		var node yamlv3.Node
		err := dec.Decode(&node)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("parse YAML: %w", err)
		}
		doc, err := yamlv3.Marshal(&node)
		if err != nil {
			return nil, fmt.Errorf("parse YAML: %w", err)
		}
		out = append(out, doc)
	}
}

// Fields reads one document whose top is a map; empty for an empty document.
func Fields(doc []byte) (map[string]any, error) {
	data, err := yaml.YAMLToJSONStrict(doc)
	if err != nil {
		return nil, fmt.Errorf("parse YAML: %w", err)
	}
	var top any
	if err := json.UnmarshalCaseSensitivePreserveInts(data, &top); err != nil {
		return nil, fmt.Errorf("parse YAML: %w", err)
	}
	switch v := top.(type) {
	case nil:
		return map[string]any{}, nil
	case map[string]any:
		return v, nil
	default:
		return nil, fmt.Errorf("not an object but a %T", top)
	}
}

func flatten(o Object) ([]Object, error) {
	kind := o.Kind()
	items, isList := o.Fields["items"].([]any)
	if !strings.HasSuffix(kind, "List") || !isList && o.Fields["items"] != nil {
		return []Object{o}, nil
	}
	var out []Object
	for i, item := range items {
		source := fmt.Sprintf("%s, item %d", o.Source, i+1)
		fields, ok := item.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("read %s: not an object but a %T", source, item)
		}
		// Items of a typed list say their kind only by the list's.
		if of := strings.TrimSuffix(kind, "List"); of != "" && fields["kind"] == nil && fields["apiVersion"] == nil {
			fields["kind"], fields["apiVersion"] = of, o.APIVersion()
		}
		objects, err := flatten(Object{Source: source, Fields: fields})
		if err != nil {
			return nil, err
		}
		out = append(out, objects...)
	}
	return out, nil
}

// Decode reads an object into a typed one; a field that the type does not have is an
// error.
func Decode(o Object, into any) error {
	data, err := stdjson.Marshal(o.Fields)
	if err != nil {
		return fmt.Errorf("read %s: %w", o.Source, err)
	}
	strict, err := json.UnmarshalStrict(data, into)
	if err = errors.Join(append(strict, err)...); err != nil {
		return fmt.Errorf("read %s: %w", o.Source, err)
	}
	return nil
}

// Encode returns an object as the API has it, without what is empty or the server's:
// status, creationTimestamp.
func Encode(obj any) (map[string]any, error) {
	data, err := stdjson.Marshal(obj)
	if err != nil {
		return nil, fmt.Errorf("encode object: %w", err)
	}
	var fields map[string]any
	if err := json.UnmarshalCaseSensitivePreserveInts(data, &fields); err != nil {
		return nil, fmt.Errorf("encode object: %w", err)
	}
	delete(fields, "status")
	if meta, ok := fields["metadata"].(map[string]any); ok {
		delete(meta, "creationTimestamp")
	}
	return fields, nil
}

// Write writes objects as YAML documents.
func Write(w io.Writer, objects []map[string]any) error {
	for i, o := range objects {
		data, err := yaml.Marshal(o)
		if err != nil {
			return fmt.Errorf("write YAML: %w", err)
		}
		if i > 0 {
			data = append([]byte("---\n"), data...)
		}
		if _, err := w.Write(data); err != nil {
			return fmt.Errorf("write YAML: %w", err)
		}
	}
	return nil
}
