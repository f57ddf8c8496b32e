// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// sysctlRoot is where the kernel's settings are, unless [WithSysctlRoot] says otherwise.
const sysctlRoot = "/proc/sys"

// An Option of [New].
type Option func(*Kernel)

// WithSysctlRoot says where the kernel's settings are: in a container /proc/sys is read-only,
// and the host's is mounted elsewhere.
func WithSysctlRoot(path string) Option { return func(k *Kernel) { k.sysctls = path } }

// Sysctl reads a setting by its path below the root, as in net/ipv4/vs/conntrack. The error
// is [ErrNotFound] where the kernel has none: those of net/ipv4/vs come with ip_vs.
func (k *Kernel) Sysctl(name string) (string, error) {
	var out string
	err := k.sysctl(name, os.O_RDONLY, func(f *os.File) error {
		b, err := io.ReadAll(io.LimitReader(f, 4096))
		out = strings.TrimSpace(string(b))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read setting %s: %w", name, err)
	}
	return out, nil
}

// SetSysctl writes a setting. The error is [ErrNotFound] where the kernel has none.
func (k *Kernel) SetSysctl(name, value string) error {
	err := k.sysctl(name, os.O_WRONLY, func(f *os.File) error {
		_, err := f.WriteString(value)
		return err
	})
	if err != nil {
		return fmt.Errorf("set %s to %s: %w", name, value, err)
	}
	return nil
}

// sysctl opens the file of a setting; a name cannot lead out of the root.
func (k *Kernel) sysctl(name string, mode int, do func(*os.File) error) error {
	root, err := os.OpenRoot(k.sysctls)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // only read
	f, err := root.OpenFile(name, mode, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNotFound
	}
	if err != nil {
		return err
	}
	return errors.Join(do(f), f.Close())
}
