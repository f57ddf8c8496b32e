// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestParseName(t *testing.T) {
	t.Parallel()
	for ref, want := range map[string]string{
		"traefik/whoami":                "traefik/whoami:latest",
		"k8s.gcr.io/echoserver:1.5":     "echoserver:1.5",
		"localhost/a/b:x":               "a/b:x",
		"host:5000/a":                   "a:latest",
		"library/busybox":               "busybox:latest",
		"fairlead.dev/fairlead-c:dev_1": "fairlead-c:dev_1",
	} {
		n, err := ParseName(ref)
		if err != nil || n.String() != want {
			t.Errorf("ParseName(%q) = %v, %v; want %s", ref, n, err, want)
		}
	}
	for _, ref := range []string{"", "A/B", "a:", "../etc", "a/..", "a@sha256:00", "a b", "a:../x", "/a"} {
		if n, err := ParseName(ref); err == nil {
			t.Errorf("ParseName(%q) = %v, want an error", ref, n)
		}
	}
}

func TestLayerIsReproducibleAndComplete(t *testing.T) {
	t.Parallel()
	a := []File{{Path: "/b/c", Data: []byte("1")}, {Path: "/a", Link: "b/c"}, {Path: "/tmp", Dir: true, Mode: 0o777}}
	b := []File{a[2], a[0], a[1]}
	la, err := Layer(a)
	if err != nil {
		t.Fatal(err)
	}
	lb, err := Layer(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(la, lb) {
		t.Error("the order of the input changes the layer")
	}
	got := entries(t, la)
	for name, want := range map[string]string{"a": "Lrwxrwxrwx ", "b/": "drwxr-xr-x ", "b/c": "-rw-r--r-- 1", "tmp/": "drwxrwxrwx "} {
		if got[name] != want {
			t.Errorf("entry %s: got %q, want %q", name, got[name], want)
		}
	}
}

func testImage(t *testing.T) *Image {
	t.Helper()
	l, err := Layer([]File{{Path: "/x", Data: []byte("content")}})
	if err != nil {
		t.Fatal(err)
	}
	return &Image{Config: Config{Entrypoint: []string{"/x"}, User: "1"}, Layers: [][]byte{l}}
}

// get is an answer of the registry.
func get(t *testing.T, url string) (int, http.Header, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, b
}

func TestArchiveToRegistry(t *testing.T) {
	t.Parallel()
	var archive bytes.Buffer
	img := testImage(t)
	if err := img.Save(&archive, "example.org/team/app:1"); err != nil {
		t.Fatal(err)
	}
	store := NewStore(t.TempDir())
	refs, err := store.Load(&archive)
	if err != nil || len(refs) != 1 || refs[0] != "example.org/team/app:1" {
		t.Fatalf("Load: %v, %v", refs, err)
	}
	srv := httptest.NewServer(store.Handler())
	defer srv.Close()
	if status, _, _ := get(t, srv.URL+"/v2/"); status != http.StatusOK {
		t.Errorf("/v2/: status %d", status)
	}
	status, header, body := get(t, srv.URL+"/v2/team/app/manifests/1?ns=anywhere")
	if status != http.StatusOK || header.Get("Content-Type") != typeManifest || header.Get("Docker-Content-Digest") != digest(body) {
		t.Fatalf("manifest: status %d, header %v", status, header)
	}
	var m manifest
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatal(err)
	}
	if _, _, same := get(t, srv.URL+"/v2/team/app/manifests/"+digest(body)); !bytes.Equal(same, body) {
		t.Error("manifest by digest differs")
	}
	if _, _, layer := get(t, srv.URL+"/v2/team/app/blobs/"+m.Layers[0].Digest); !bytes.Equal(layer, img.Layers[0]) {
		t.Error("the layer changed on its way")
	}
	_, _, cfg := get(t, srv.URL+"/v2/team/app/blobs/"+m.Config.Digest)
	var cf configFile
	if err := json.Unmarshal(cfg, &cf); err != nil || cf.Config.User != "1" || cf.RootFS.DiffIDs[0] != digest(img.Layers[0]) {
		t.Errorf("configuration: %s, %v", cfg, err)
	}
	for _, path := range []string{"/v2/team/app/manifests/2", "/v2/none/manifests/1", "/v2/x/blobs/sha256:" + strings.Repeat("0", 64), "/v2/x"} {
		if status, _, _ := get(t, srv.URL+path); status != http.StatusNotFound {
			t.Errorf("%s: status %d, want 404", path, status)
		}
	}
	if status, _, _ := get(t, srv.URL+"/v2/x/blobs/sha256:..%2f..%2fetc"); status != http.StatusBadRequest {
		t.Errorf("bad digest: status %d, want 400", status)
	}
}

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	store := NewStore(t.TempDir())
	if _, err := store.Load(strings.NewReader("not a tar")); err == nil {
		t.Error("text was loaded")
	}
	l, err := Layer([]File{{Path: "/manifest.json", Data: []byte(`[{"Config":"c.json","Layers":[]}]`)}, {Path: "/c.json", Data: []byte("{}")}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Load(bytes.NewReader(l)); err == nil || !strings.Contains(err.Error(), "has a name") {
		t.Errorf("nameless archive: %v", err)
	}
}

func TestParseLdd(t *testing.T) {
	t.Parallel()
	out := "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)\n\t/lib64/ld-linux.so.2 (0x0000)\n"
	got := strings.Join(parseLdd(out), " ")
	if want := "/lib/x/libc.so.6 /lib64/ld-linux.so.2"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
