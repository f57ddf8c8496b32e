// SPDX-License-Identifier: Apache-2.0

// Package faultproxy stands between one client and a Kubernetes API server and spoils
// some of the requests, as networks and overloaded servers do: conflicts, timeouts before
// and after the server acted, delays, reset connections and watches that fall behind. It
// passes everything else through unchanged, credentials included, and counts what it did.
//
// It owns the faults and nothing else: it must not know what its client is, nor treat
// one kind of object differently from another. The soak of address allocation runs each
// controller behind a proxy of its own.
package faultproxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Faults are the probabilities, 0 to 1, that one request suffers each fault. They are
// tried in this order and at most one happens, except that a delay goes with any.
type Faults struct {
	// Delay holds the request back before anything else, for up to MaxDelay.
	Delay float64
	// Conflict answers a PUT, PATCH or DELETE with 409 Conflict without forwarding it.
	Conflict float64
	// Timeout answers with 504 Gateway Timeout without forwarding.
	Timeout float64
	// Drop forwards the request, lets the server answer, and breaks the stream off
	// instead of passing the answer on: the client cannot know what happened.
	Drop float64
	// Reset closes the client's connection with all requests and watches on it.
	Reset float64
	// Stall lets a watch fall behind: its next data waits for up to MaxStall. Tried once
	// per piece of data.
	Stall float64

	MaxDelay time.Duration
	MaxStall time.Duration
}

// Counts says what a proxy did.
type Counts struct {
	Requests, Writes                                   int64
	Delays, Conflicts, Timeouts, Drops, Resets, Stalls int64
	// DroppedWrites are the drops of requests that the server had carried out.
	DroppedWrites int64
	// Unreachable counts requests that the API server itself did not answer.
	Unreachable int64
}

// Options of a proxy.
type Options struct {
	// Target is the API server's URL, Authority the file of who signed its certificate.
	Target    string
	Authority string
	// Cert and Key are the files that the proxy serves with.
	Cert, Key string
	// Listen is the address to serve on, as "127.0.0.1:20001".
	Listen string
	Faults Faults
	// Seed of chance. It repeats the rates, not the run: which request comes when is
	// decided by the client.
	Seed uint64
}

// Proxy is one proxy. It begins without faults; see [Proxy.SetActive].
type Proxy struct {
	o         Options
	listener  net.Listener
	server    *http.Server
	transport *http.Transport
	reverse   *httputil.ReverseProxy
	active    atomic.Bool

	mu     sync.Mutex
	rng    *rand.Rand
	counts Counts
}

// connKey is where a request's context holds its connection.
type connKey struct{}

// New makes a proxy that listens but does not serve yet; see [Proxy.Run].
func New(ctx context.Context, o Options) (*Proxy, error) {
	target, err := url.Parse(o.Target)
	if err != nil {
		return nil, fmt.Errorf("fault proxy: %w", err)
	}
	pem, err := os.ReadFile(o.Authority)
	if err != nil {
		return nil, fmt.Errorf("fault proxy: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("fault proxy: no certificate in %s", o.Authority)
	}
	pair, err := tls.LoadX509KeyPair(o.Cert, o.Key)
	if err != nil {
		return nil, fmt.Errorf("fault proxy: %w", err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("fault proxy: %w", err)
	}
	p := &Proxy{o: o, listener: l, rng: rand.New(rand.NewPCG(o.Seed, 0))} //nolint:gosec // chance, not secrecy
	p.transport = &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 64,
	}
	quiet := log.New(io.Discard, "", 0)
	p.reverse = &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host },
		Transport:     p.transport,
		FlushInterval: -1,
		ErrorLog:      quiet,
		ErrorHandler:  p.unreachable,
	}
	p.server = &http.Server{
		Handler: http.HandlerFunc(p.serve), ErrorLog: quiet, ReadHeaderTimeout: time.Minute,
		TLSConfig:   &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
	}
	return p, nil
}

// URL that clients use.
func (p *Proxy) URL() string { return "https://" + p.listener.Addr().String() }

// Run serves until ctx ends.
func (p *Proxy) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = p.server.Close() })
	defer stop()
	defer p.transport.CloseIdleConnections()
	if err := p.server.ServeTLS(p.listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("fault proxy: %w", err)
	}
	return nil
}

// SetActive switches the faults on or off; what is under way is not touched.
func (p *Proxy) SetActive(on bool) { p.active.Store(on) }

// Counts returns what the proxy did so far.
func (p *Proxy) Counts() Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts
}

// fate is what happens to one request.
type fate int

const (
	pass fate = iota
	conflict
	timeout
	drop
	reset
)

// decide draws the fate of one request and counts it.
func (p *Proxy) decide(write bool, method string) (f fate, delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := &p.counts
	c.Requests++
	if write {
		c.Writes++
	}
	if !p.active.Load() {
		return pass, 0
	}
	if p.hit(p.o.Faults.Delay) && p.o.Faults.MaxDelay > 0 {
		delay = time.Duration(p.rng.Int64N(int64(p.o.Faults.MaxDelay)))
		c.Delays++
	}
	switch {
	case write && method != http.MethodPost && p.hit(p.o.Faults.Conflict):
		c.Conflicts++
		return conflict, delay
	case p.hit(p.o.Faults.Timeout):
		c.Timeouts++
		return timeout, delay
	case p.hit(p.o.Faults.Drop):
		c.Drops++
		return drop, delay
	case p.hit(p.o.Faults.Reset):
		c.Resets++
		return reset, delay
	}
	return pass, delay
}

func (p *Proxy) hit(probability float64) bool { return p.rng.Float64() < probability }

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) {
	if v := r.URL.Query().Get("watch"); v == "true" || v == "1" {
		p.reverse.ServeHTTP(&stallingWriter{ResponseWriter: w, p: p, ctx: r.Context()}, r)
		return
	}
	write := r.Method != http.MethodGet && r.Method != http.MethodHead
	f, delay := p.decide(write, r.Method)
	if delay > 0 {
		pause(r.Context(), delay)
	}
	switch f {
	case pass:
		p.reverse.ServeHTTP(w, r)
	case conflict:
		refuse(w, http.StatusConflict, metav1.StatusReasonConflict, "injected: the object has been modified; please apply your changes to the latest version and try again")
	case timeout:
		refuse(w, http.StatusGatewayTimeout, metav1.StatusReasonTimeout, "injected: request did not complete within requested timeout")
	case drop:
		p.drop(r, write)
	case reset:
		if c, ok := r.Context().Value(connKey{}).(*tls.Conn); ok {
			_ = c.NetConn().Close()
		}
		abort()
	}
}

// drop has the server carry out the request, whatever the client does meanwhile.
func (p *Proxy) drop(r *http.Request, write bool) {
	answer := &recorder{header: http.Header{}, code: http.StatusOK}
	p.reverse.ServeHTTP(answer, r.WithContext(context.WithoutCancel(r.Context())))
	if write && answer.code < http.StatusMultipleChoices {
		p.mu.Lock()
		p.counts.DroppedWrites++
		p.mu.Unlock()
	}
	abort()
}

// abort ends the request without an answer.
func abort() { panic(http.ErrAbortHandler) } //nolint:forbidigo // net/http's documented way to do it

// unreachable tells the client what the server's own absence looks like: nothing.
func (p *Proxy) unreachable(http.ResponseWriter, *http.Request, error) {
	p.mu.Lock()
	p.counts.Unreachable++
	p.mu.Unlock()
	abort()
}

// refuse answers as the API server would.
func refuse(w http.ResponseWriter, code int, why metav1.StatusReason, message string) {
	body, err := json.Marshal(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Code: int32(code), Reason: why, Message: message, //nolint:gosec // a status code
	})
	if err != nil {
		abort()
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(body)
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// recorder takes an answer that nobody will see.
type recorder struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(code int)        { r.code = code }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }

// stallingWriter passes a watch on, sometimes late.
type stallingWriter struct {
	http.ResponseWriter
	p   *Proxy
	ctx context.Context //nolint:containedctx // of the one request that this writer serves
}

func (s *stallingWriter) Write(b []byte) (int, error) {
	if d := s.p.stall(); d > 0 {
		pause(s.ctx, d)
	}
	return s.ResponseWriter.Write(b)
}

// Unwrap lets the reverse proxy flush.
func (s *stallingWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (p *Proxy) stall() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.active.Load() || p.o.Faults.MaxStall <= 0 || !p.hit(p.o.Faults.Stall) {
		return 0
	}
	p.counts.Stalls++
	return time.Duration(p.rng.Int64N(int64(p.o.Faults.MaxStall)))
}
