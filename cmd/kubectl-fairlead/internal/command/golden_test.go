// SPDX-License-Identifier: Apache-2.0

package command_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/command"
	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/manifest"
)

func updateFlag() bool { return flag.Lookup("update").Value.String() == "true" }

func TestMain(m *testing.M) {
	flag.Bool("update", false, "write what the commands print into testdata/*.txtar")
	flag.Parse()
	os.Exit(m.Run())
}

// Each testdata/*.txtar is one command line on one cluster: its comment's last line is
// "$ kubectl fairlead …". Sections: cluster (objects on the server), forbidden
// (resources that the user may not read), files to read; and what is expected: exit,
// stdout, stderr, created (what was written). Missing expectations mean nothing.
func TestGolden(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) < 10 {
		t.Fatalf("%d test cases, %v", len(paths), err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) { golden(t, path) })
	}
}

func golden(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	a := parseArchive(data)
	full, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	got := runCase(t, a)
	for _, section := range expectations() {
		if a.get(section) == got[section] {
			continue
		}
		if updateFlag() {
			a.set(section, got[section])
			continue
		}
		t.Errorf("%s (-want +got):\n%s", section, cmp.Diff(a.get(section), got[section]))
	}
	if updateFlag() {
		writeFile(t, full, a.format())
	}
}

func expectations() []string { return []string{"exit", "stdout", "stderr", "created"} }

func now() time.Time { return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) }

// runCase runs a case's command line on its cluster.
func runCase(t *testing.T, a *archive) map[string]string {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(a.comment), "\n")
	line, ok := strings.CutPrefix(lines[len(lines)-1], "$ kubectl fairlead ")
	if !ok {
		t.Fatalf("no command line: %q", lines[len(lines)-1])
	}
	t.Chdir(t.TempDir())
	server := &fakeServer{t: t, objects: make(map[string][]manifest.Object), forbidden: strings.Fields(a.get("forbidden"))}
	objects, err := manifest.Read("cluster", strings.NewReader(a.get("cluster")))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		server.add(o)
	}
	for _, f := range a.files {
		if strings.Contains(f.name, ".") {
			if err := os.MkdirAll(filepath.Dir(f.name), 0o700); err != nil {
				t.Fatal(err)
			}
			writeFile(t, f.name, []byte(f.data))
		}
	}
	var out, errs bytes.Buffer
	env := command.Env{In: strings.NewReader(a.get("stdin")), Out: &out, Err: &errs, Now: now, Version: "v0.0.0"}
	code := command.Run(t.Context(), env, append(strings.Fields(line), "--kubeconfig", server.start()))
	created := new(bytes.Buffer)
	if err := manifest.Write(created, server.created); err != nil {
		t.Fatal(err)
	}
	return map[string]string{"exit": strconv.Itoa(code) + "\n", "stdout": out.String(), "stderr": errs.String(), "created": created.String()}
}

// archive is a text with files in it, as of golang.org/x/tools/txtar.
type archive struct {
	comment string
	files   []file
}

type file struct{ name, data string }

func parseArchive(data []byte) *archive {
	a := &archive{}
	for line := range strings.Lines(string(data)) {
		name, ok := strings.CutPrefix(strings.TrimSuffix(line, " --\n"), "-- ")
		switch {
		case ok && strings.HasSuffix(line, " --\n"):
			a.files = append(a.files, file{name: name})
		case len(a.files) == 0:
			a.comment += line
		default:
			a.files[len(a.files)-1].data += line
		}
	}
	return a
}

func (a *archive) get(name string) string {
	for _, f := range a.files {
		if f.name == name {
			return f.data
		}
	}
	if name == "exit" {
		return "0\n"
	}
	return ""
}

func (a *archive) set(name, data string) {
	for i := range a.files {
		if a.files[i].name == name {
			a.files[i].data = data
			return
		}
	}
	a.files = append(a.files, file{name, data})
}

func (a *archive) format() []byte {
	var b bytes.Buffer
	b.WriteString(a.comment)
	for _, f := range a.files {
		fmt.Fprintf(&b, "-- %s --\n%s", f.name, f.data)
	}
	return b.Bytes()
}
