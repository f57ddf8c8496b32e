// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/lab/cluster"
)

func TestExitStatuses(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "none")
	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{}, exitUsage, ""},
		{[]string{"fly"}, exitUsage, "no command"},
		{[]string{"partition", "--state-dir", dir, "worker"}, exitUsage, "--from must be"},
		{[]string{"partition", "--state-dir", dir, "worker", "--from", "mars"}, exitUsage, "--from must be"},
		{[]string{"partition", "--state-dir", dir, "--from", "api"}, exitUsage, "usage: fairlead-lab partition"},
		{[]string{"partition", "--state-dir", dir, "worker", "worker2", "--from", "api"}, exitFailure, "no lab is up"},
		{[]string{"heal", "--state-dir", dir}, exitFailure, "no lab is up"},
		{[]string{"heal", "--state-dir", dir, "worker"}, exitUsage, "usage: fairlead-lab heal"},
		{[]string{"pause", "--state-dir", dir, "worker/agent"}, exitFailure, "no lab is up"},
		{[]string{"kill-agent", "--state-dir", dir, "worker"}, exitFailure, "no lab is up"},
		{[]string{"burn", "--state-dir", dir, "worker", "--loops", "4"}, exitUsage, "are needed"},
		{[]string{"burn", "--state-dir", dir, "worker", "--loops", "4", "--for", "x"}, exitUsage, "invalid"},
		{[]string{"burn", "--state-dir", dir, "worker", "--loops", "4", "--for", "1s"}, exitFailure, "no lab is up"},
		{[]string{"limit", "--state-dir", dir, "worker", "50m"}, exitUsage, "want NODE/agent"},
		{[]string{"limit", "--state-dir", dir, "worker/agent", "much"}, exitUsage, "amount of CPU"},
		{[]string{"limit", "--state-dir", dir, "worker/agent", "50m"}, exitFailure, "no lab is up"},
		{[]string{"add", "--state-dir", dir, "router", "r1"}, exitFailure, "no lab is up"},
		{[]string{"up", "--family", "ipv6"}, exitUsage, "comes with a later release"},
		{[]string{"up", "--family", "ipx"}, exitUsage, "must be ipv4"},
		{[]string{"up", "--nonsense"}, exitUsage, "not defined"},
		{[]string{"exec", "--state-dir", dir, "worker"}, exitUsage, "usage: fairlead-lab exec"},
		{[]string{"exec", "--state-dir", dir, "worker", "--", "true"}, exitFailure, "no lab is up"},
		{[]string{"kubectl", "--state-dir", dir, "--", "get", "nodes"}, exitFailure, "no lab is up"},
		{[]string{"kubeconfig", "--state-dir", dir}, exitFailure, "no lab is up"},
		{[]string{"kill", "--state-dir", dir, "worker"}, exitFailure, "no lab is up"},
		{[]string{"logs", "--state-dir", dir, "etcd"}, exitFailure, "no lab is up"},
		{[]string{"status", "--state-dir", dir, "-o", "xml"}, exitUsage, "must be json"},
		{[]string{"image", "--target", "x"}, exitUsage, "needed"},
	} {
		err := dispatch(t.Context(), c.args)
		status := exitFailure
		if se, ok := errors.AsType[*statusError](err); ok {
			status = se.status
		}
		if err == nil || status != c.status || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: status %d, %v; want %d, %q", c.args, status, err, c.status, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: more than one line: %v", c.args, err)
		}
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("a command that failed made %s", dir)
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		command string
		argv    []string
		want    []string
	}{
		{"exec", []string{"--state-dir", "d", "worker", "--", "sh", "-c", "x -- y"}, []string{"worker", "sh", "-c", "x -- y"}},
		{"exec", []string{"worker", "kubectl", "--", "a"}, []string{"worker", "kubectl", "--", "a"}},
		{"kubectl", []string{"--", "exec", "pod", "--", "ls"}, []string{"exec", "pod", "--", "ls"}},
		{"kubectl", []string{"get", "-o", "json"}, []string{"get", "-o", "json"}},
	} {
		fs := flag.NewFlagSet(c.command, flag.ContinueOnError)
		dir := fs.String("state-dir", "", "")
		got, err := (&call{flags: fs, stateDir: dir, argv: c.argv}).args(0, -1)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s %q: got %q, %v; want %q", c.command, c.argv, got, err, c.want)
		}
	}
}

func TestFlagsBetweenWords(t *testing.T) {
	t.Parallel()
	for _, argv := range [][]string{
		{"--state-dir", "d", "a", "b", "--from", "api"},
		{"a", "--from=api", "b", "--state-dir", "d"},
		{"--from", "api", "--state-dir", "d", "--", "a", "b"},
	} {
		fs := flag.NewFlagSet("partition", flag.ContinueOnError)
		dir, from := fs.String("state-dir", "", ""), fs.String("from", "", "")
		got, err := (&call{flags: fs, stateDir: dir, argv: argv}).mixed(1, -1)
		if err != nil || !slices.Equal(got, []string{"a", "b"}) || *from != "api" || *dir != "d" {
			t.Errorf("%q: %q, %v, from %q, state directory %q", argv, got, err, *from, *dir)
		}
	}
}

func TestBusyEnds(t *testing.T) {
	began := time.Now()
	busy(3, 20*time.Millisecond)
	if took := time.Since(began); took < 20*time.Millisecond {
		t.Errorf("ended after %s", took)
	}
}

func TestEveryCommandIsDocumented(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	usage(&b)
	for _, c := range commands() {
		if !c.internal && (c.help == "" || !strings.Contains(b.String(), c.help)) {
			t.Errorf("%s is not in the help", c.name)
		}
	}
}

func TestUnknownProxyMode(t *testing.T) {
	t.Parallel()
	var se *statusError
	if err := checkProxyMode(context.WithoutCancel(t.Context()), "userspace", cluster.FamilyDual); !errors.As(err, &se) || se.status != exitUsage {
		t.Errorf("got %v", err)
	}
}

func TestSourceRoot(t *testing.T) {
	t.Parallel()
	root, err := sourceRoot("")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "test", "lab", "cmd", "fairlead-lab")); err != nil {
		t.Error(err)
	}
	if _, err := sourceRoot(t.TempDir()); err == nil {
		t.Error("an empty directory is taken for the source tree")
	}
}
