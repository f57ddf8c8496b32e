// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"testing"
)

func TestParseHierarchies(t *testing.T) {
	t.Parallel()
	mountinfo := `25 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 29 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
31 29 0:27 / /sys/fs/cgroup/systemd rw,nosuid - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
32 29 0:28 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw,nsdelegate
broken line
`
	want := []hierarchy{
		{mountpoint: "/sys/fs/cgroup/cpu,cpuacct", options: "cpu,cpuacct"},
		{mountpoint: "/sys/fs/cgroup/systemd", options: "name=systemd"},
		{mountpoint: "/sys/fs/cgroup/unified", v2: true},
	}
	if got := parseHierarchies(mountinfo); !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestGroupIn(t *testing.T) {
	t.Parallel()
	content := "3:cpuset:/a\n2:cpuacct,cpu:/lab/worker\n1:name=systemd:/s:with:colons\nbroken\n0::/unified\n"
	for _, c := range []struct {
		h    hierarchy
		want string
		ok   bool
	}{
		{hierarchy{options: "cpu,cpuacct"}, "/lab/worker", true},
		{hierarchy{options: "name=systemd"}, "/s:with:colons", true},
		{hierarchy{options: "cpu"}, "", false},
		{hierarchy{v2: true}, "/unified", true},
	} {
		if got, ok := groupIn(content, c.h); got != c.want || ok != c.ok {
			t.Errorf("%+v: %q, %t", c.h, got, ok)
		}
	}
	// Version 1 only: the line of version 2 must not pass for a hierarchy without controllers.
	if got, ok := groupIn("0::/unified\n", hierarchy{}); ok {
		t.Errorf("got %q", got)
	}
}

func TestBandwidth(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		v2          bool
		milli       int
		file, value string
	}{
		{true, 50, "cpu.max", "5000 100000"},
		{true, 0, "cpu.max", "max 100000"},
		{false, 50, "cpu.cfs_quota_us", "5000"},
		{false, 0, "cpu.cfs_quota_us", "-1"},
	} {
		if file, value := bandwidth(c.v2, c.milli); file != c.file || value != c.value {
			t.Errorf("%+v: %s %s", c, file, value)
		}
	}
}

func TestParseStat(t *testing.T) {
	t.Parallel()
	line := "17 (a) b (c)) S 4 17 17 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2"
	got, err := parseStat(line)
	if want := (stat{state: "S", parent: 4, startTicks: 98765}); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	for _, bad := range []string{"", "17 (a) S 4", "no parenthesis at all"} {
		if got, err := parseStat(bad); err == nil {
			t.Errorf("parseStat(%q) = %+v, want an error", bad, got)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("17 (a) b (c)) S 4 17 17 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2")
	f.Fuzz(func(t *testing.T, line string) {
		if s, err := parseStat(line); err == nil && s.state == "" {
			t.Errorf("parseStat(%q) has no state and no error", line)
		}
	})
}

func TestEnvironmentHasEachNameOnce(t *testing.T) {
	t.Parallel()
	got := environment([]string{"PATH=/bin", "HOME=/home", EnvComponent + "=init"}, []string{"PATH=/lab", EnvComponent + "=kubelet"})
	want := []string{"PATH=/lab", EnvComponent + "=kubelet", "HOME=/home"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestParseEnviron(t *testing.T) {
	t.Parallel()
	got := parseEnviron("A=1\x00B=x=y\x00broken\x00")
	if len(got) != 2 || got["A"] != "1" || got["B"] != "x=y" {
		t.Errorf("got %v", got)
	}
}

func TestSpecRoundTrip(t *testing.T) {
	t.Parallel()
	s := &Spec{Lab: "x", Name: "worker", Dir: t.TempDir(), Node: true, Processes: []Process{{Name: "p", Argv: []string{"a"}, After: []string{"file:/x"}}}}
	if err := s.Save(); err != nil {
		t.Fatal(err)
	}
	got, err := LoadSpec(s.Path())
	if err != nil || got.Name != s.Name || !got.Node || len(got.Processes) != 1 || got.Processes[0].After[0] != "file:/x" {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := LoadSpec(s.Path() + ".none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file gives %v", err)
	}
}

func TestRunningKnowsItsProcess(t *testing.T) {
	t.Parallel()
	ticks, err := startTicks(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if r := (&Running{Pid: os.Getpid(), StartTicks: ticks}); !r.Alive() {
		t.Error("this process counts as dead")
	}
	if r := (&Running{Pid: os.Getpid(), StartTicks: ticks + 1}); r.Alive() {
		t.Error("another process with the same pid counts as ours")
	}
	var off *Running
	if off.Alive() {
		t.Error("a host that never ran is alive")
	}
}

func TestExitStatus(t *testing.T) {
	t.Parallel()
	for script, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -TERM $$": 143} {
		got, ok := ExitStatus(exec.CommandContext(t.Context(), "sh", "-c", script).Run())
		if !ok || got != want {
			t.Errorf("%s: status %d, %t; want %d", script, got, ok, want)
		}
	}
	if _, ok := ExitStatus(errors.New("other")); ok {
		t.Error("an unrelated error counts as an exit status")
	}
}
