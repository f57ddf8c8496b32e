// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// lists has one module that needs two others, of which one needs the other.
const lists = `kernel/a.ko: kernel/b.ko kernel/c.ko
kernel/b.ko: kernel/c.ko
kernel/c.ko:
kernel/d.ko.xz: kernel/c.ko
`

func TestModulesComeAfterWhatTheyNeed(t *testing.T) {
	t.Parallel()
	k := Kernel{Modules: t.TempDir()}
	write(t, filepath.Join(k.Modules, "modules.dep"), lists)
	got, err := k.load("a", "d", "builtin")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, f := range []string{"c.ko", "b.ko", "a.ko", "d.ko.xz"} {
		want = append(want, filepath.Join(k.Modules, "kernel", f))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAnIncompleteKernelIsNone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := kernelIn(dir); err == nil {
		t.Error("an empty directory passes for a kernel")
	}
	write(t, filepath.Join(dir, "boot", "vmlinuz-1"), "")
	if _, err := kernelIn(dir); err == nil {
		t.Error("an image without modules passes for a kernel")
	}
	write(t, filepath.Join(dir, "lib", "modules", "1", "modules.dep"), "")
	if k, err := kernelIn(dir); err != nil || filepath.Base(k.Modules) != "1" {
		t.Errorf("got %v, %v", k, err)
	}
}

// The archive is checked by another's reader of the format where there is one, and by its
// layout everywhere.
func TestArchive(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	a := &archive{w: &b}
	a.bytes("five5", 0o755, []byte("content"))
	a.bytes("empty", 0o600, nil)
	a.end()
	if a.err != nil {
		t.Fatal(a.err)
	}
	if b.Len()%4 != 0 || !bytes.HasPrefix(b.Bytes(), []byte("07070100000001000081ED")) {
		t.Errorf("%d bytes that begin with %q", b.Len(), b.Bytes()[:30])
	}
	cpio, err := exec.LookPath("cpio")
	if err != nil {
		return
	}
	cmd := exec.CommandContext(t.Context(), cpio, "-i", "--quiet")
	cmd.Dir, cmd.Stdin = t.TempDir(), &b
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	info, err := os.Stat(filepath.Join(cmd.Dir, "five5"))
	if err != nil || info.Mode() != 0o755 || info.Size() != 7 {
		t.Errorf("unpacked: %v, %v", info, err)
	}
}

func TestOnlyTestsOfTaggedFilesAreRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":         "module example.com/m\n\ngo 1.26\n",
		"p/p_test.go":    "package p\n\nimport \"testing\"\n\nfunc TestCommon(t *testing.T) { t.Error(\"not asked for\") }\n",
		"p/k_test.go":    "//go:build kernel\n\npackage p\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestMain(m *testing.M) { os.Exit(m.Run()) }\n",
		"p/ipvs_test.go": "//go:build ipvs\n\npackage p\n\nimport \"testing\"\n\nfunc TestA(t *testing.T) { t.Log(\"A was here\") }\n\nfunc TestB(t *testing.T) {}\n\nfunc helper() {}\n",
		"q/q_test.go":    "package q\n\nimport \"testing\"\n\nfunc TestOther(t *testing.T) {}\n",
		"r/ipvs_test.go": "//go:build ipvs\n\npackage r\n\nimport \"testing\"\n\nfunc TestFails(t *testing.T) { t.Error(\"on purpose\") }\n",
	} {
		write(t, filepath.Join(dir, name), text)
	}
	// The go command looks for the module where it runs.
	var b bytes.Buffer
	s := Suite{Packages: []string{"./..."}, Tags: "kernel", Output: &b, dir: dir}
	jobs, err := s.compile(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if len(jobs) != 2 || !slices.Contains(jobs[0].Args, "^(TestA|TestB)$") {
		t.Fatalf("got %+v", jobs)
	}
	passed, err := RunJobs(t.Context(), jobs, &b)
	if err != nil || passed {
		t.Errorf("passed %t, %v: a failure must count", passed, err)
	}
	for _, want := range []string{"A was here", "--- PASS: TestB", "--- FAIL: TestFails", "\nok  \texample.com/m/p\t", "\nFAIL\texample.com/m/r\t"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "TestCommon") {
		t.Errorf("a test without the tag ran:\n%s", b.String())
	}
	s.Packages = []string{"./q"}
	if _, err := s.compile(t.Context(), t.TempDir()); err == nil {
		t.Error("no test at all passes for success")
	}
}

func TestASuiteOfACrashIsNotPassed(t *testing.T) {
	t.Parallel()
	passed, err := RunJobs(t.Context(), []Job{{Package: "x", Dir: t.TempDir(), Binary: "/bin/sh", Args: []string{"-c", "kill -9 $$"}}}, &bytes.Buffer{})
	if err != nil || passed {
		t.Errorf("passed %t, %v", passed, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if passed, err := RunJobs(ctx, []Job{{Package: "x", Dir: t.TempDir(), Binary: "/bin/true"}}, &bytes.Buffer{}); passed {
		t.Errorf("interrupted, and passed: %v", err)
	}
}

func TestStatusMustBeWhole(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "status")
	for text, want := range map[string]int{"0\n": 0, "137\n": 137, "": -1, "1": -1, "x\n": -1} {
		write(t, path, text)
		got, err := readStatus(path)
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
