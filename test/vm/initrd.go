// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Paths in the initial file system.
const (
	initPath  = "init"
	orderPath = "order.json"
)

// order is what the machine is to do.
type order struct {
	// Modules are paths in the initial file system, in the order to load them.
	Modules []string
	// ModulesDir of the machine outside, Release is the kernel's version.
	ModulesDir, Release string
	Dir                 string
	Env, Argv           []string
}

// writeInitrd writes the archive that the kernel starts from: our own program as the first
// process, the modules that reach the outside, and the order.
func writeInitrd(path string, o *Options) error {
	self := o.Self
	if self == "" {
		var err error
		if self, err = os.Executable(); err != nil {
			return fmt.Errorf("find this program: %w", err)
		}
	}
	files, err := o.Kernel.load("virtio_pci", "virtio_console", "virtio_net", "9pnet_virtio", "9p", "overlay")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // our own directory
	if err != nil {
		return fmt.Errorf("write the initial file system: %w", err)
	}
	defer f.Close()
	z, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if err != nil {
		return fmt.Errorf("write the initial file system: %w", err)
	}
	a := &archive{w: z}
	do := order{ModulesDir: o.Kernel.Modules, Release: filepath.Base(o.Kernel.Modules), Dir: o.Dir, Env: o.Env, Argv: o.Argv}
	a.file(initPath, 0o755, self)
	for i, file := range files {
		name := fmt.Sprintf("%02d-%s", i, filepath.Base(file))
		do.Modules = append(do.Modules, "/"+name)
		a.file(name, 0o644, file)
	}
	b, err := json.Marshal(do)
	if err != nil {
		return fmt.Errorf("write the initial file system: %w", err)
	}
	a.bytes(orderPath, 0o644, b)
	a.end()
	if a.err == nil {
		a.err = z.Close()
	}
	if a.err == nil {
		a.err = f.Close()
	}
	if a.err != nil {
		return fmt.Errorf("write the initial file system: %w", a.err)
	}
	return nil
}

// archive writes cpio's format newc, the kernel's for initial file systems
// (Documentation/driver-api/early-userspace/buffer-format.rst). Files lie at the top, so
// that no directory is needed. The first error ends it.
type archive struct {
	w     io.Writer
	inode int
	err   error
}

func (a *archive) file(name string, mode int, from string) {
	if a.err != nil {
		return
	}
	b, err := os.ReadFile(from) //nolint:gosec // this program and the kernel's own modules
	if err != nil {
		a.err = err
		return
	}
	a.bytes(name, mode, b)
}

const regular = 0o100000

func (a *archive) bytes(name string, mode int, data []byte) {
	if a.err != nil {
		return
	}
	a.inode++
	var b bytes.Buffer
	b.WriteString("070701")
	for _, v := range []int{a.inode, regular | mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0} {
		fmt.Fprintf(&b, "%08X", v)
	}
	b.WriteString(name + "\x00")
	pad(&b)
	b.Write(data)
	pad(&b)
	_, a.err = a.w.Write(b.Bytes())
}

// pad fills up to a multiple of four bytes, as header and name do together.
func pad(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}

func (a *archive) end() { a.bytes("TRAILER!!!", 0, nil) }
