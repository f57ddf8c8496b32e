// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

// Media types of image manifest version 2, schema 2; containerd reads them as
// well as the OCI names.
const (
	typeManifest = "application/vnd.docker.distribution.manifest.v2+json"
	typeConfig   = "application/vnd.docker.container.image.v1+json"
	typeLayer    = "application/vnd.docker.image.rootfs.diff.tar"
)

// Config is the part of an image's configuration that a container runtime
// reads. The JSON names are those of the OCI image specification.
type Config struct {
	User       string            `json:"User,omitempty"`
	Env        []string          `json:"Env,omitempty"`
	Entrypoint []string          `json:"Entrypoint,omitempty"`
	Cmd        []string          `json:"Cmd,omitempty"`
	WorkingDir string            `json:"WorkingDir,omitempty"`
	Labels     map[string]string `json:"Labels,omitempty"`
}

// Image is an image in memory.
type Image struct {
	Config Config
	// Layers are uncompressed tars, the lowest first.
	Layers [][]byte
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type configFile struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Config       Config `json:"config"`
	RootFS       rootFS `json:"rootfs"`
}

type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int    `json:"size"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type archiveEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (img *Image) configJSON() ([]byte, error) {
	cf := configFile{Architecture: runtime.GOARCH, OS: "linux", Config: img.Config, RootFS: rootFS{Type: "layers"}}
	for _, l := range img.Layers {
		cf.RootFS.DiffIDs = append(cf.RootFS.DiffIDs, digest(l))
	}
	b, err := json.Marshal(cf)
	if err != nil {
		return nil, fmt.Errorf("image configuration: %w", err)
	}
	return b, nil
}

// Name is an image reference without its registry: the store answers for every
// registry alike.
type Name struct {
	Repository string
	Tag        string
}

func (n Name) String() string { return n.Repository + ":" + n.Tag }

// ParseName reads a reference such as "traefik/whoami" or
// "k8s.gcr.io/echoserver:1.5". The first part is a registry if it has a dot or
// a colon or is "localhost"; it is dropped, as is the "library/" of unqualified
// names. The tag defaults to latest; digests are not accepted.
func ParseName(ref string) (Name, error) {
	name, tag := ref, "latest"
	if i := strings.LastIndex(ref, ":"); i > strings.LastIndex(ref, "/") {
		name, tag = ref[:i], ref[i+1:]
	}
	registry := regexp.MustCompile(`^([a-z0-9-]+(\.[a-z0-9-]+)+(:[0-9]+)?|[a-z0-9-]+:[0-9]+|localhost)$`)
	if first, rest, ok := strings.Cut(name, "/"); ok && registry.MatchString(first) {
		name = rest
	}
	name = strings.TrimPrefix(name, "library/")
	if !regexp.MustCompile(`^[a-z0-9]+([._/-]+[a-z0-9]+)*$`).MatchString(name) ||
		!regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`).MatchString(tag) {
		return Name{}, fmt.Errorf("image name %q: want [REGISTRY/]NAME[:TAG] in lower case", ref)
	}
	return Name{Repository: name, Tag: tag}, nil
}

// Store keeps images in a directory: blobs/<hex> by digest, and
// tags/<repository>/<tag> holding a manifest's digest. Writers are not
// coordinated; equal content makes that harmless.
type Store struct{ dir string }

// NewStore is the store in dir, which need not exist yet.
func NewStore(dir string) *Store { return &Store{dir: dir} }

func (s *Store) blobPath(dgst string) string {
	return filepath.Join(s.dir, "blobs", strings.TrimPrefix(dgst, "sha256:"))
}

func (s *Store) tagPath(n Name) string {
	return filepath.Join(s.dir, "tags", strings.ReplaceAll(n.Repository, "/", "%2F"), n.Tag)
}

// Put stores an image under a reference.
func (s *Store) Put(ref string, img *Image) error {
	n, err := ParseName(ref)
	if err != nil {
		return err
	}
	cfg, err := img.configJSON()
	if err != nil {
		return err
	}
	m := manifest{
		SchemaVersion: 2, MediaType: typeManifest,
		Config: descriptor{MediaType: typeConfig, Digest: digest(cfg), Size: len(cfg)},
	}
	blobs := [][]byte{cfg}
	for _, l := range img.Layers {
		m.Layers = append(m.Layers, descriptor{MediaType: typeLayer, Digest: digest(l), Size: len(l)})
		blobs = append(blobs, l)
	}
	mb, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("image manifest: %w", err)
	}
	for _, b := range append(blobs, mb) {
		if err := writeFile(s.blobPath(digest(b)), b); err != nil {
			return err
		}
	}
	return writeFile(s.tagPath(n), []byte(digest(mb)))
}

func writeFile(p string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(p), 0o750); err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	tmp := p + ".tmp"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	if err := os.Rename(tmp, p); err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	return nil
}

// Save writes an image as a docker archive, as "docker save" does.
func (img *Image) Save(w io.Writer, ref string) error {
	cfg, err := img.configJSON()
	if err != nil {
		return err
	}
	cfgName := strings.TrimPrefix(digest(cfg), "sha256:") + ".json"
	entry := archiveEntry{Config: cfgName, RepoTags: []string{ref}}
	tw := tar.NewWriter(w)
	for _, l := range img.Layers {
		name := strings.TrimPrefix(digest(l), "sha256:") + "/layer.tar"
		entry.Layers = append(entry.Layers, name)
		if err := addFile(tw, name, l); err != nil {
			return err
		}
	}
	mb, err := json.Marshal([]archiveEntry{entry})
	if err != nil {
		return fmt.Errorf("docker archive: %w", err)
	}
	if err := errors.Join(addFile(tw, cfgName, cfg), addFile(tw, "manifest.json", mb)); err != nil {
		return err
	}
	if err := tw.Close(); err != nil {
		return fmt.Errorf("docker archive: %w", err)
	}
	return nil
}

func addFile(tw *tar.Writer, name string, b []byte) error {
	h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(b)), Typeflag: tar.TypeReg}
	if err := tw.WriteHeader(h); err != nil {
		return fmt.Errorf("docker archive: %w", err)
	}
	if _, err := tw.Write(b); err != nil {
		return fmt.Errorf("docker archive: %w", err)
	}
	return nil
}

// Load stores every image of a docker archive and returns their references.
func (s *Store) Load(r io.Reader) ([]string, error) {
	files := map[string][]byte{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("docker archive: %w", err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			return nil, fmt.Errorf("docker archive: %s: %w", h.Name, err)
		}
		files[path.Clean(h.Name)] = b
	}
	var entries []archiveEntry
	if err := json.Unmarshal(files["manifest.json"], &entries); err != nil {
		return nil, errors.New("not a docker archive: manifest.json is missing or not readable")
	}
	var refs []string
	for _, e := range entries {
		img, err := e.image(files)
		if err != nil {
			return nil, err
		}
		for _, ref := range e.RepoTags {
			if err := s.Put(ref, img); err != nil {
				return nil, err
			}
			refs = append(refs, ref)
		}
	}
	if len(refs) == 0 {
		return nil, errors.New("docker archive: no image in it has a name")
	}
	return refs, nil
}

func (e *archiveEntry) image(files map[string][]byte) (*Image, error) {
	var cf configFile
	if err := json.Unmarshal(files[path.Clean(e.Config)], &cf); err != nil {
		return nil, fmt.Errorf("docker archive: image configuration %s is missing or not readable", e.Config)
	}
	img := &Image{Config: cf.Config}
	for _, l := range e.Layers {
		b, ok := files[path.Clean(l)]
		if !ok {
			return nil, fmt.Errorf("docker archive: layer %s is missing", l)
		}
		if len(b) > 2 && b[0] == 0x1f && b[1] == 0x8b {
			return nil, fmt.Errorf("docker archive: layer %s is compressed; save it uncompressed", l)
		}
		img.Layers = append(img.Layers, b)
	}
	return img, nil
}
