// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Handler serves the store by the pull half of the OCI distribution
// specification (end-1 to end-3): /v2/, manifests and blobs. The registry that
// the client believes to talk to (the ns parameter) makes no difference.
func (s *Store) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v2/{$}", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("GET /v2/{rest...}", func(w http.ResponseWriter, r *http.Request) {
		rest := r.PathValue("rest")
		if repo, ref, ok := cutLast(rest, "/manifests/"); ok {
			s.serveManifest(w, r, strings.TrimPrefix(repo, "library/"), ref)
			return
		}
		if _, dgst, ok := cutLast(rest, "/blobs/"); ok {
			s.serveBlob(w, r, dgst, "application/octet-stream")
			return
		}
		http.NotFound(w, r)
	})
	return mux
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+len(sep):], true
}

func (s *Store) serveManifest(w http.ResponseWriter, r *http.Request, repo, ref string) {
	if strings.HasPrefix(ref, "sha256:") {
		s.serveBlob(w, r, ref, typeManifest)
		return
	}
	n, err := ParseName(repo + ":" + ref)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	b, err := os.ReadFile(s.tagPath(n))
	if err != nil {
		serveError(w, err)
		return
	}
	s.serveBlob(w, r, string(b), typeManifest)
}

func (s *Store) serveBlob(w http.ResponseWriter, r *http.Request, dgst, mediaType string) {
	if !regexp.MustCompile(`^sha256:[0-9a-f]{64}$`).MatchString(dgst) {
		http.Error(w, "digest", http.StatusBadRequest)
		return
	}
	f, err := os.Open(filepath.Clean(s.blobPath(dgst)))
	if err != nil {
		serveError(w, err)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		serveError(w, err)
		return
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", dgst)
	w.Header().Set("Content-Length", strconv.FormatInt(info.Size(), 10))
	http.ServeContent(w, r, "", info.ModTime(), f)
}

func serveError(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	if errors.Is(err, fs.ErrNotExist) {
		status = http.StatusNotFound
	}
	http.Error(w, http.StatusText(status), status)
}
