// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const (
	maxLines = 500
	spdx     = "// SPDX-License-Identifier: Apache-2.0\n"
)

func TestGoFiles(t *testing.T) {
	t.Parallel()
	files := textFiles(t, func(name string) bool { return strings.HasSuffix(name, ".go") })
	for path, data := range files {
		if generated(data) {
			continue
		}
		if !bytes.HasPrefix(data, []byte(spdx+"\n")) {
			t.Errorf("%s: must begin with %q and a blank line", path, strings.TrimSpace(spdx))
		}
		if n := bytes.Count(data, []byte("\n")); n > maxLines {
			t.Errorf("%s: %d lines; over %d a file holds more than one idea: split it", path, n, maxLines)
		}
	}
}

func TestEveryPackageHasOneDocComment(t *testing.T) {
	t.Parallel()
	docs := make(map[string][]string)
	for path, data := range textFiles(t, func(name string) bool { return strings.HasSuffix(name, ".go") }) {
		if strings.HasSuffix(path, "_test.go") || generated(data) {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, data, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Errorf("parse %s: %v", path, err)
			continue
		}
		dir := filepath.Dir(path)
		docs[dir] = append(docs[dir], packageDoc(f)...)
	}
	if len(docs) < 5 {
		t.Fatalf("found %d packages only", len(docs))
	}
	for dir, comments := range docs {
		if len(comments) != 1 {
			t.Errorf("%s: %d package comments; want one that says what the package owns, what it must not do, and who calls it", dir, len(comments))
			continue
		}
		if len(strings.Fields(comments[0])) < 15 {
			t.Errorf("%s: package comment too short to say what the package owns, must not do, and who calls it: %q", dir, comments[0])
		}
	}
}

func packageDoc(f *ast.File) []string {
	if f.Doc == nil {
		return nil
	}
	text := strings.TrimSpace(f.Doc.Text())
	if text == "" {
		return nil
	}
	return []string{text}
}

// What is committed must work anywhere, and must not name a package registry: builds go
// through the tools' ordinary configuration, mirrors included.
func TestNoMachineAndRegistryNames(t *testing.T) {
	t.Parallel()
	banned := map[string]*regexp.Regexp{
		"a registry's host name":      regexp.MustCompile(`\b(registry|proxy|mirror|index|hub|sum|deb)(-[0-9])?\.[a-z0-9-]+\.[a-z]{2,}\b`),
		"an image path on a registry": regexp.MustCompile(`\b[a-z0-9.-]+\.io/[a-z0-9-]+(/[a-z0-9-]+)*[:@][a-z0-9]`),
		"a path of one machine":       regexp.MustCompile(`(^|[\s"'=(])/(root|work|home)/[a-z.]`),
	}
	// The tutorial's own image name, which the lab answers for itself, and RFC 2606's.
	allowed := strings.NewReplacer("k8s.gcr.io/echoserver:1.5", "", ".example.com", "")
	for path, data := range textFiles(t, func(string) bool { return true }) {
		if path == "test/arch/files_test.go" || strings.HasSuffix(path, ".sum") {
			continue
		}
		text := allowed.Replace(string(data))
		for what, pattern := range banned {
			if hit := pattern.FindString(text); hit != "" {
				t.Errorf("%s names %s: %q", path, what, strings.TrimSpace(hit))
			}
		}
	}
}

func generated(data []byte) bool {
	return bytes.Contains(data[:min(len(data), 200)], []byte("DO NOT EDIT"))
}

// textFiles returns the work tree's files that match, by path below the root, without
// what is built or ignored.
func textFiles(t *testing.T, match func(name string) bool) map[string][]byte {
	t.Helper()
	top := root(t)
	files := make(map[string][]byte)
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if rel == ".git" || rel == "bin" || rel == ".cache" {
				return filepath.SkipDir
			}
			return nil
		}
		// A linked work tree has a file .git that names a path.
		if !d.Type().IsRegular() || rel == ".git" || !match(d.Name()) {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !bytes.ContainsRune(data, 0) {
			files[rel] = data
		}
		return nil
	})
	if err != nil {
		t.Fatalf("walk the work tree: %v", err)
	}
	return files
}

// root is the directory of the product's go.mod.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatal(err)
	}
	return dir
}
