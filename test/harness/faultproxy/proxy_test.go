// SPDX-License-Identifier: Apache-2.0

package faultproxy

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// bed is a proxy in front of a server that counts what reaches it.
type bed struct {
	proxy   *Proxy
	client  *http.Client
	reached atomic.Int64
}

func newBed(t *testing.T, f Faults) *bed {
	t.Helper()
	b := &bed{}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.reached.Add(1)
		_, _ = io.WriteString(w, "hello "+r.Header.Get("Authorization"))
	}))
	t.Cleanup(server.Close)
	dir := t.TempDir()
	pair := server.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Target: server.URL, Authority: filepath.Join(dir, "ca.crt"), Cert: filepath.Join(dir, "ca.crt"),
		Key: filepath.Join(dir, "key"), Listen: "127.0.0.1:0", Faults: f, Seed: 1,
	}
	for path, block := range map[string]*pem.Block{
		o.Cert: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]},
		o.Key:  {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if b.proxy, err = New(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.proxy.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	b.client = server.Client()
	b.client.Timeout = 10 * time.Second
	b.proxy.SetActive(true)
	return b
}

// do sends one request and returns status and body, or the error as body.
func (b *bed) do(t *testing.T, method, query string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, b.proxy.URL()+"/x"+query, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer secret")
	resp, err := b.client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(body)
}

func TestFaults(t *testing.T) {
	for _, tc := range []struct {
		name    string
		faults  Faults
		method  string
		query   string
		code    int // 0: no answer
		body    string
		reached int64
		counted func(Counts) int64
	}{
		{"passes on", Faults{}, "PUT", "", 200, "hello Bearer secret", 1, func(c Counts) int64 { return c.Writes }},
		{"conflict", Faults{Conflict: 1}, "PUT", "", 409, `"reason":"Conflict"`, 0, func(c Counts) int64 { return c.Conflicts }},
		{"no conflict of a create", Faults{Conflict: 1}, "POST", "", 200, "hello", 1, func(c Counts) int64 { return c.Writes }},
		{"no conflict of a read", Faults{Conflict: 1}, "GET", "", 200, "hello", 1, func(c Counts) int64 { return c.Requests }},
		{"timeout", Faults{Timeout: 1}, "GET", "", 504, `"reason":"Timeout"`, 0, func(c Counts) int64 { return c.Timeouts }},
		{"dropped answer", Faults{Drop: 1}, "POST", "", 0, "", 1, func(c Counts) int64 { return c.DroppedWrites }},
		{"reset", Faults{Reset: 1}, "PUT", "", 0, "", 0, func(c Counts) int64 { return c.Resets }},
		{"delay", Faults{Delay: 1, MaxDelay: time.Millisecond}, "GET", "", 200, "hello", 1, func(c Counts) int64 { return c.Delays }},
		{"late watch", Faults{Stall: 1, MaxStall: time.Millisecond}, "GET", "?watch=true", 200, "hello", 1, func(c Counts) int64 { return c.Stalls }},
		{"no other fault of a watch", Faults{Timeout: 1, Drop: 1, Reset: 1}, "GET", "?watch=1", 200, "hello", 1, func(Counts) int64 { return 1 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBed(t, tc.faults)
			code, body := b.do(t, tc.method, tc.query)
			if code != tc.code || !strings.Contains(body, tc.body) {
				t.Errorf("answer %d %q, want %d with %q", code, body, tc.code, tc.body)
			}
			if got := b.reached.Load(); got != tc.reached {
				t.Errorf("%d requests reached the server, want %d", got, tc.reached)
			}
			if tc.counted(b.proxy.Counts()) != 1 {
				t.Errorf("counts %+v", b.proxy.Counts())
			}
		})
	}
}

func TestInactiveProxyInjectsNothing(t *testing.T) {
	b := newBed(t, Faults{Timeout: 1})
	b.proxy.SetActive(false)
	if code, _ := b.do(t, http.MethodGet, ""); code != http.StatusOK {
		t.Errorf("status %d, want 200", code)
	}
}
