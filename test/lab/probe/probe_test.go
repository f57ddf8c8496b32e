// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// series makes attempts 20 ms apart that each last 1 ms; 'x' fails after
// 500 ms.
func series(pattern string) []attempt {
	start := time.Unix(1000, 0).UTC()
	var out []attempt
	for i, c := range pattern {
		a := attempt{start: start.Add(time.Duration(i) * 20 * time.Millisecond)}
		a.end = a.start.Add(time.Millisecond)
		a.hostname, a.remoteAddr = string(c), "192.0.2.1:1234"
		if c == 'x' {
			a.err, a.end = "connection refused", a.start.Add(500*time.Millisecond)
		}
		out = append(out, a)
	}
	return out
}

func TestGap(t *testing.T) {
	t.Parallel()
	for pattern, want := range map[string]float64{
		"aaaa":   0,
		"aaxxba": 40,            // two of four intervals are missing
		"xxaa":   41 - 20,       // from the first start
		"aaxx":   20 + 519 - 20, // to the last end: 60 ms + 500 ms, less 21 ms, less an interval
		"xx":     520 - 20,
		"":       0,
		"axaxxa": 40, // the longer one counts
	} {
		r := newReport(20*time.Millisecond, series(pattern))
		if r.LongestGapMs != want {
			t.Errorf("%q: gap %v ms, want %v", pattern, r.LongestGapMs, want)
		}
		if (want > 0) != (r.GapStart != "") {
			t.Errorf("%q: gap %v starts at %q", pattern, r.LongestGapMs, r.GapStart)
		}
	}
}

func TestReportCounts(t *testing.T) {
	t.Parallel()
	r := newReport(20*time.Millisecond, series("aaxba"))
	if r.Sent != 5 || r.OK != 4 || r.Failed != 1 || r.Hostnames["a"] != 3 || r.Hostnames["b"] != 1 ||
		r.RemoteAddrs["192.0.2.1"] != 4 || r.Errors["connection refused"] != 1 {
		t.Errorf("%+v", r)
	}
	if r.FirstFailure != "1970-01-01T00:16:40.04Z" || r.FirstSuccessAfter != "1970-01-01T00:16:40.061Z" {
		t.Errorf("first failure %s, first success after %s", r.FirstFailure, r.FirstSuccessAfter)
	}
}

func TestHangingConnectionsDelayNobody(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-time.After(10 * time.Second):
		}
		fmt.Fprintln(w, "late")
	}))
	defer srv.Close()
	began := time.Now()
	var out bytes.Buffer
	args := []string{"-target", srv.URL, "-interval", "10ms", "-timeout", "300ms", "-for", "500ms", "-json"}
	if err := run(t.Context(), args, &out); err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	// A prober that waits for its connections would get two through.
	if r.Sent < 20 || r.Failed != r.Sent || time.Since(began) > 5*time.Second {
		t.Errorf("%d sent, %d failed in %s", r.Sent, r.Failed, time.Since(began))
	}
}

func TestAnswersAreRead(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "Hostname: pod1\nIP: 1.2.3.4\nRemoteAddr: %s\n", r.RemoteAddr)
	}))
	defer srv.Close()
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-target", srv.URL, "-for", "100ms", "-json"}, &out); err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if r.OK == 0 || r.Hostnames["pod1"] != r.OK || r.RemoteAddrs["127.0.0.1"] != r.OK {
		t.Errorf("%+v", r)
	}
}

func TestBadArguments(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{}, {"-target", "http://x/", "-interval", "0"}, {"-nonsense"}} {
		if err := run(t.Context(), args, &bytes.Buffer{}); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}
