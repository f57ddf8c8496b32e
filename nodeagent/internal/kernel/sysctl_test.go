// SPDX-License-Identifier: Apache-2.0

package kernel_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

func TestSysctl(t *testing.T) {
	root := t.TempDir()
	write := func(name, value string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(value), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write("sys/net/a/b", "0\n")
	write("secret", "no setting")
	k, err := kernel.New(kernel.WithSysctlRoot(filepath.Join(root, "sys")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	if got, err := k.Sysctl("net/a/b"); err != nil || got != "0" {
		t.Errorf("read %q, %v", got, err)
	}
	if err := k.SetSysctl("net/a/b", "1"); err != nil {
		t.Error(err)
	}
	if got, err := k.Sysctl("net/a/b"); err != nil || got != "1" {
		t.Errorf("read %q, %v after it was set", got, err)
	}
	for _, name := range []string{"net/none", "nothing/at/all"} {
		if _, err := k.Sysctl(name); !errors.Is(err, kernel.ErrNotFound) {
			t.Errorf("read %s: %v", name, err)
		}
		if err := k.SetSysctl(name, "1"); !errors.Is(err, kernel.ErrNotFound) {
			t.Errorf("set %s: %v", name, err)
		}
	}
	for _, name := range []string{"../secret", "/etc/hostname", "net"} {
		if got, err := k.Sysctl(name); err == nil {
			t.Errorf("read %s: %q", name, got)
		}
		if err := k.SetSysctl(name, "1"); err == nil {
			t.Errorf("%s is set", name)
		}
	}
}
