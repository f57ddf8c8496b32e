// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
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
		a.answer = answer{hostname: string(c), remote: "192.0.2.1"}
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
	if r := newReport(20*time.Millisecond, series("axaxb")); r.FirstFailure != "1970-01-01T00:16:40.02Z" || r.LastFailure != "1970-01-01T00:16:40.06Z" {
		t.Errorf("failures from %s to %s", r.FirstFailure, r.LastFailure)
	}
}

func TestQuantiles(t *testing.T) {
	t.Parallel()
	var attempts []attempt
	for i := range 200 {
		start := time.Unix(int64(i), 0)
		// The order of starts is not that of durations.
		attempts = append(attempts, attempt{start: start, end: start.Add(time.Duration((i*7)%200+1) * time.Millisecond), late: time.Duration(i%5) * time.Millisecond})
	}
	r := newReport(time.Second, attempts)
	if r.LatencyP50Ms != 100 || r.LatencyP99Ms != 198 || r.LatestStartMs != 4 {
		t.Errorf("p50 %v, p99 %v, latest start %v", r.LatencyP50Ms, r.LatencyP99Ms, r.LatestStartMs)
	}
	if r := newReport(time.Second, series("xx")); r.LatencyP50Ms != 0 || r.LatencyP99Ms != 0 {
		t.Errorf("quantiles of nothing: %+v", r)
	}
}

func TestErrorKinds(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"dial tcp 192.0.2.1:80: connect: connection refused":                 "connection refused",
		"dial tcp [fd00::1]:80: connect: no route to host":                   "no route to host",
		"read tcp 192.0.2.1:4->192.0.2.2:80: read: connection reset by peer": "connection reset",
		"dial tcp 192.0.2.1:80: i/o timeout":                                 "timed out",
		"read tcp 192.0.2.1:4->192.0.2.2:80: read: connection timed out":     "timed out",
		"unexpected EOF":              "EOF",
		"status 503 Busy":             "status",
		"something never seen before": "something never seen before",
	} {
		if got := errorKind(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// listen serves whoami answers on a loopback address of a family.
func listen(t *testing.T, network, addr string) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "Hostname: pod1\nIP: 1.2.3.4\nRemoteAddr: %s\n", r.RemoteAddr)
	}))
	l, err := (&net.ListenConfig{}).Listen(t.Context(), network, addr)
	if err != nil {
		t.Fatal(err)
	}
	srv.Listener = l
	srv.Start()
	t.Cleanup(srv.Close)
	return srv
}

func TestRateOverIPv6(t *testing.T) {
	t.Parallel()
	srv := listen(t, "tcp6", "[::1]:0")
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-target", srv.URL + "/x?y", "-rate", "400", "-for", "500ms", "-timeout", "5s", "-json"}, &out); err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if r.Sent != 200 || r.OK != 200 || r.RemoteAddrs["::1"] != 200 || r.LatencyP50Ms <= 0 || r.LatencyP99Ms < r.LatencyP50Ms {
		t.Errorf("%+v", r)
	}
}

// Two of eight connections are cut at their fifth request.
func TestHeldConnections(t *testing.T) {
	t.Parallel()
	var (
		mu    sync.Mutex
		count = map[string]int{}
		cut   int
	)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		count[r.RemoteAddr]++
		die := count[r.RemoteAddr] == 5 && cut < 2
		if die {
			cut++
		}
		mu.Unlock()
		if die {
			if conn, _, err := http.NewResponseController(w).Hijack(); err != nil || conn.Close() != nil {
				t.Errorf("cut the connection: %v", err)
			}
			return
		}
		fmt.Fprintln(w, "Hostname: pod1")
	}))
	t.Cleanup(srv.Close)
	var out bytes.Buffer
	args := []string{"-target", srv.URL, "-hold", "8", "-interval", "10ms", "-timeout", "10s", "-for", "1s", "-json"}
	if err := run(t.Context(), args, &out); err != nil {
		t.Fatal(err)
	}
	var r holdReport
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if r.Held != 8 || r.Alive != 6 || r.Broken != 2 || r.NotOpened != 0 || len(r.Breaks) != 2 || r.Hostnames["pod1"] != 8 || r.Requests < 6*5+2*4 {
		t.Errorf("%+v", r)
	}
	for _, b := range r.Breaks {
		if b.Local == "" || b.At == "" || b.Error != "EOF" || b.Hostname != "pod1" {
			t.Errorf("%+v", b)
		}
	}
}

func TestNobodyToHold(t *testing.T) {
	t.Parallel()
	srv := listen(t, "tcp4", "127.0.0.1:0")
	url := srv.URL
	srv.Close()
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-target", url, "-hold", "3", "-for", "200ms"}, &out); err != nil {
		t.Fatal(err)
	}
	if want := "3 held, 0 alive, 0 broken, 3 not opened"; !strings.HasPrefix(out.String(), want) || !strings.Contains(out.String(), "connection refused") {
		t.Errorf("%s; want %s", out.String(), want)
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
	srv := listen(t, "tcp4", "127.0.0.1:0")
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
	for _, args := range [][]string{
		{},
		{"-target", "http://x/", "-interval", "0"},
		{"-nonsense"},
		{"-target", "https://x/"},
		{"-target", "192.0.2.1"},
		{"-target", "http://x/", "-rate", "0"},
		{"-target", "http://x/", "-rate", "100000"},
		{"-target", "http://x/", "-rate", "10", "-interval", "1s"},
		{"-target", "http://x/", "-rate", "10", "-hold", "1"},
		{"-target", "http://x/", "-hold", "-1"},
	} {
		if err := run(t.Context(), args, &bytes.Buffer{}); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}
