// SPDX-License-Identifier: Apache-2.0

// Command whoami is the program in the lab's test images. It owns the answers
// that tests read: who serves, and who asked. With -echo it answers as the
// echoserver image does, with -pause it is the pause container and only reaps.
// It runs inside pods and must not depend on anything in the image.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "whoami:", err)
		stop()
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

func run(ctx context.Context) error {
	echo := flag.Bool("echo", false, "answer as the echoserver image, on port 8080")
	pause := flag.Bool("pause", false, "serve nothing, reap orphans until told to end")
	flag.Parse()
	port := os.Getenv("WHOAMI_PORT_NUMBER")
	handler := http.HandlerFunc(whoami)
	switch {
	case *pause:
		return reap(ctx)
	case *echo:
		port, handler = "8080", echoserver
	case port == "":
		port = "80"
	}
	srv := &http.Server{Addr: ":" + port, Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { cancel(srv.ListenAndServe()) }()
	<-ctx.Done()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	end, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer stop()
	return srv.Shutdown(end)
}

// reap is PID 1 of a pod that shares its process namespace.
func reap(ctx context.Context) error {
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	for {
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if err != nil || pid <= 0 {
				break
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-children:
		}
	}
}

// whoami answers with the fields of the traefik/whoami image in its order.
func whoami(w http.ResponseWriter, r *http.Request) {
	var b strings.Builder
	fmt.Fprintf(&b, "Hostname: %s\n", hostname())
	for _, ip := range addresses() {
		fmt.Fprintf(&b, "IP: %s\n", ip)
	}
	fmt.Fprintf(&b, "RemoteAddr: %s\n", r.RemoteAddr)
	fmt.Fprintf(&b, "%s %s %s\nHost: %s\n", r.Method, r.URL.RequestURI(), r.Proto, r.Host)
	writeHeaders(&b, r, func(k string) string { return k + ": " })
	fmt.Fprintln(w, b.String()) // the client may be gone
}

// echoserver answers with the sections of the echoserver image.
func echoserver(w http.ResponseWriter, r *http.Request) {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n\nHostname: %s\n\nPod Information:\n\t-no pod information available-\n\n", hostname())
	fmt.Fprintf(&b, "Request Information:\n\tclient_address=%s\n\tmethod=%s\n\treal path=%s\n\tquery=%s\n\trequest_version=%s\n\trequest_uri=http://%s%s\n\n",
		host, r.Method, r.URL.Path, r.URL.RawQuery, strings.TrimPrefix(r.Proto, "HTTP/"), r.Host, r.URL.RequestURI())
	fmt.Fprintf(&b, "Request Headers:\n\thost=%s\n", r.Host)
	writeHeaders(&b, r, func(k string) string { return "\t" + strings.ToLower(k) + "=" })
	b.WriteString("\nRequest Body:\n\t-no body in request-\n")
	fmt.Fprintln(w, b.String()) // the client may be gone
}

func writeHeaders(b *strings.Builder, r *http.Request, prefix func(string) string) {
	for _, k := range slices.Sorted(maps.Keys(r.Header)) {
		for _, v := range r.Header[k] {
			b.WriteString(prefix(k) + v + "\n")
		}
	}
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}

func addresses() []string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	out := make([]string, 0, len(addrs))
	for _, a := range addrs {
		ip, _, _ := strings.Cut(a.String(), "/")
		out = append(out, ip)
	}
	return out
}
