// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestBlackout(t *testing.T) {
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }
	for _, tc := range []struct {
		name   string
		report Report
		want   float64
		share  float64
		err    string
	}{
		{
			name:   "silent and back",
			report: Report{Sent: 100, Failed: 40, LongestGapMs: 800, GapStart: at(990), GapEnd: at(1810), FirstFailure: at(1000), FirstSuccessAfter: at(1810), LastFailure: at(1790)},
			want:   800,
			share:  790,
		},
		{name: "nothing failed", report: Report{Sent: 100, OK: 100, LongestGapMs: 5, GapEnd: at(2000)}, err: "was not seen"},
		{name: "never back", report: Report{Sent: 100, Failed: 50, LongestGapMs: 1000, GapEnd: at(2000), FirstFailure: at(1000)}, err: "no request succeeded after"},
		{
			name:   "worse before the cut",
			report: Report{Sent: 100, Failed: 9, LongestGapMs: 300, GapEnd: at(700), FirstFailure: at(400), FirstSuccessAfter: at(1200), LastFailure: at(900)},
			err:    "ended before the cut",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if ms := tc.report.Share(at(1000)); ms != tc.share {
				t.Errorf("a share failed for %v ms, want %v", ms, tc.share)
			}
			got, err := tc.report.Blackout(at(1000))
			if tc.err == "" && (err != nil || got != tc.want) {
				t.Errorf("%v, %v; want %v", got, err, tc.want)
			}
			if tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
				t.Errorf("error %v, want one with %q", err, tc.err)
			}
		})
	}
}

// TestReportFields holds the field names against an answer of the prober.
func TestReportFields(t *testing.T) {
	const in = `{"sent":3,"ok":2,"failed":1,"longestGapMs":40.5,"gapStart":"2026-01-02T03:04:05.1Z","gapEnd":"2026-01-02T03:04:05.2Z",
"firstFailure":"2026-01-02T03:04:05.15Z","firstSuccessAfter":"2026-01-02T03:04:05.2Z","lastFailure":"2026-01-02T03:04:05.15Z","hostnames":{"b":1,"a":1},"remoteAddrs":{},"errors":{"EOF":1}}`
	var r Report
	if err := json.Unmarshal([]byte(in), &r); err != nil {
		t.Fatal(err)
	}
	if r.Sent != 3 || r.OK != 2 || r.Failed != 1 || r.LongestGapMs != 40.5 || r.GapStart.IsZero() || r.GapEnd.IsZero() ||
		r.FirstFailure.IsZero() || r.FirstSuccessAfter.IsZero() || r.LastFailure.IsZero() || r.Hostnames.String() != "a 1, b 1" || r.Errors["EOF"] != 1 {
		t.Errorf("read as %+v", r)
	}
}

func TestEventually(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		took, err := Eventually(t.Context(), time.Second, func(context.Context) error {
			if calls++; calls < 4 {
				return errors.New("not yet")
			}
			return nil
		})
		if err != nil || took != 300*time.Millisecond {
			t.Errorf("%s, %v; want 300 ms and no error", took, err)
		}
		cause := errors.New("never")
		took, err = Eventually(t.Context(), time.Second, func(context.Context) error { return cause })
		if !errors.Is(err, cause) || took != time.Second {
			t.Errorf("%s, %v; want 1 s and the cause", took, err)
		}
	})
}

func TestAlways(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		err := Always(t.Context(), time.Second, func(context.Context) error { calls++; return nil })
		if err != nil || calls != 11 {
			t.Errorf("%d calls, %v; want 11 and no error", calls, err)
		}
		cause := errors.New("moved")
		if err := Always(t.Context(), time.Second, func(context.Context) error { return cause }); !errors.Is(err, cause) {
			t.Errorf("%v, want the cause", err)
		}
	})
}

func TestTranscriptCountsFailures(t *testing.T) {
	var out bytes.Buffer
	tr := NewTranscript(&out, time.Now())
	step := func(o Observation, err error) bool {
		return tr.Step(t.Context(), "a step", func(context.Context) (Observation, error) { return o, err })
	}
	if !step(Observation{Expected: "one", Observed: "one", Held: true}, nil) {
		t.Error("a step that holds is reported as not holding")
	}
	if err := tr.Summary(); err != nil {
		t.Errorf("summary after a step that held: %v", err)
	}
	if step(Observation{Expected: "one", Observed: "two"}, nil) {
		t.Error("a step that does not hold is reported as holding")
	}
	if step(Observation{Expected: "one", Held: true}, errors.New("broken")) {
		t.Error("a step with an error is reported as holding")
	}
	if err := tr.Summary(); err == nil || !strings.Contains(err.Error(), "2 of 3") {
		t.Errorf("summary %v, want 2 of 3", err)
	}
	for _, want := range []string{"expected one", "observed two", "observed broken", "FAIL", "ok  "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the transcript does not say %q:\n%s", want, out.String())
		}
	}
}

func TestWrap(t *testing.T) {
	long := strings.Repeat("word ", 30)
	for _, line := range wrap(long) {
		if len(line) > column {
			t.Errorf("line of %d characters, want at most %d", len(line), column)
		}
	}
	if got := strings.Join(wrap(long), " "); got != strings.TrimSpace(long) {
		t.Errorf("wrapping changed the text to %q", got)
	}
}

func TestPath(t *testing.T) {
	for args, want := range map[string]string{
		"service web -n team":          "/api/v1/namespaces/team/services/web",
		"services -A":                  "/api/v1/services",
		"nodes":                        "/api/v1/nodes",
		"ipclaim.fairlead.dev 1.2.3.4": "/apis/fairlead.dev/v1alpha1/ipclaims/1.2.3.4",
		"pods -n a -l app=web":         "/api/v1/namespaces/a/pods?labelSelector=app%3Dweb",
		"deployment web -n team":       "",
		"services --sort-by=x":         "",
		"pods a b":                     "",
		"":                             "",
	} {
		got, ok := path(strings.Fields(args))
		if got != want || ok != (want != "") {
			t.Errorf("get %s: path %q, %t; want %q", args, got, ok, want)
		}
	}
}

// TestReads asks a server at the proxy's socket, then none.
func TestReads(t *testing.T) {
	l, err := Open(Options{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.read(t.Context(), "/version"); !errors.Is(err, errNoProxy) {
		t.Errorf("without a proxy: %v, want errNoProxy", err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", l.socket())
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/namespaces/a/services/web" || r.Host != "localhost" {
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"kind":"Status","message":"it is not there"}`))
			return
		}
		_, _ = w.Write([]byte(`{"metadata":{"name":"web"}}`))
	})}
	go func() { _ = srv.Serve(listener) }()
	t.Cleanup(func() { _ = srv.Close() })
	svc, err := l.Service(t.Context(), "a", "web")
	if err != nil || svc.Name != "web" {
		t.Errorf("%v, %v; want the Service", svc, err)
	}
	if _, err := l.Service(t.Context(), "a", "none"); err == nil || !strings.Contains(err.Error(), "it is not there") {
		t.Errorf("%v, want the server's words", err)
	}
}

// TestHoldReportFields holds the field names against an answer of the prober.
func TestHoldReportFields(t *testing.T) {
	const in = `{"held":3,"alive":1,"broken":1,"notOpened":1,"requests":70,"longestAnswerMs":612.5,"hostnames":{"a":2},"errors":{"EOF":1,"timed out":1},
"breaks":[{"at":"2026-01-02T03:04:05.1Z","local":"172.20.0.6:4711","hostname":"a","error":"EOF"}]}`
	var r HoldReport
	if err := json.Unmarshal([]byte(in), &r); err != nil {
		t.Fatal(err)
	}
	if r.Held != 3 || r.Alive != 1 || r.Broken != 1 || r.NotOpened != 1 || r.Requests != 70 || r.LongestAnswerMs != 612.5 || r.Hostnames["a"] != 2 ||
		r.Errors["EOF"] != 1 || len(r.Breaks) != 1 || r.Breaks[0].At.IsZero() || r.Breaks[0].Local == "" || r.Breaks[0].Hostname != "a" || r.Breaks[0].Error != "EOF" {
		t.Errorf("read as %+v", r)
	}
}

func TestURL(t *testing.T) {
	for address, want := range map[string]string{"172.20.255.200": "http://172.20.255.200/", "fd00:172:20:255::1": "http://[fd00:172:20:255::1]/"} {
		if got := URL(address); got != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
}
