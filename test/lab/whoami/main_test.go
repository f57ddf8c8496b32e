// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func answer(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://svc.example/path?q=1", http.NoBody)
	r.RemoteAddr = "192.0.2.7:4711"
	r.Header.Set("X-Test", "yes")
	w := httptest.NewRecorder()
	h(w, r)
	return w.Body.String()
}

func TestWhoamiHasTheFieldsTestsRead(t *testing.T) {
	t.Parallel()
	got := answer(t, whoami)
	for _, want := range []string{"Hostname: " + hostname() + "\n", "IP: 127.0.0.1\n", "RemoteAddr: 192.0.2.7:4711\n", "GET /path?q=1 HTTP/1.1\n", "Host: svc.example\n", "X-Test: yes\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
}

func TestEchoserverHasTheFieldsTestsRead(t *testing.T) {
	t.Parallel()
	got := answer(t, echoserver)
	for _, want := range []string{"Hostname: " + hostname() + "\n", "\tclient_address=192.0.2.7\n", "\trequest_uri=http://svc.example/path?q=1\n", "\tx-test=yes\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
}
