// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// File is one entry of a layer. Exactly one of Source, Data, Link and Dir is
// used, in this order of precedence.
type File struct {
	// Path is absolute inside the image.
	Path string
	// Source is a file on this machine.
	Source string
	Data   []byte
	// Link is the target of a symbolic link.
	Link string
	Dir  bool
	// Mode holds the permission bits; zero means 0755 for files from Source and
	// directories, 0644 for Data.
	Mode fs.FileMode
}

// Layer packs files into an uncompressed tar. Equal input gives equal bytes:
// entries are sorted, parents are added, owners are root and times are zero.
func Layer(files []File) ([]byte, error) {
	all := withParents(files)
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range all {
		if err := writeEntry(w, &all[i]); err != nil {
			return nil, fmt.Errorf("layer: %s: %w", all[i].Path, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("layer: %w", err)
	}
	return buf.Bytes(), nil
}

// withParents sorts files, drops all but the last of equal paths and adds the
// directories that nobody named.
func withParents(files []File) []File {
	byPath := map[string]File{}
	for _, f := range files {
		f.Path = path.Clean("/" + f.Path)
		if f.Path == "/" {
			continue
		}
		byPath[f.Path] = f
		for d := path.Dir(f.Path); d != "/"; d = path.Dir(d) {
			if _, ok := byPath[d]; !ok {
				byPath[d] = File{Path: d, Dir: true}
			}
		}
	}
	out := make([]File, 0, len(byPath))
	for _, f := range byPath {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return out
}

func writeEntry(w *tar.Writer, f *File) error {
	h := &tar.Header{Name: strings.TrimPrefix(f.Path, "/"), Mode: int64(f.Mode.Perm()), Format: tar.FormatPAX}
	if f.Mode&fs.ModeSticky != 0 {
		h.Mode |= 0o1000
	}
	data := f.Data
	switch {
	case f.Source != "":
		b, err := os.ReadFile(f.Source)
		if err != nil {
			return err
		}
		data = b
		h.Typeflag = tar.TypeReg
	case f.Link != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.Link, 0o777
		data = nil
	case f.Dir:
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
		data = nil
	default:
		h.Typeflag = tar.TypeReg
	}
	if h.Mode == 0 {
		h.Mode = 0o755
		if f.Source == "" && !f.Dir {
			h.Mode = 0o644
		}
	}
	h.Size = int64(len(data))
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}

// Tree lists everything below a directory of this machine as layer entries
// below target. A file is copied to target itself.
func Tree(source, target string) ([]File, error) {
	var out []File
	err := filepath.WalkDir(source, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(source, p)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		f := File{Path: path.Join(target, filepath.ToSlash(rel)), Mode: info.Mode().Perm()}
		switch {
		case d.IsDir():
			f.Dir = true
		case d.Type()&fs.ModeSymlink != 0:
			if f.Link, err = os.Readlink(p); err != nil {
				return err
			}
		case d.Type().IsRegular():
			f.Source = p
		default:
			return fmt.Errorf("%s is neither file, directory nor link", p)
		}
		out = append(out, f)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("copy %s: %w", source, err)
	}
	return out, nil
}
