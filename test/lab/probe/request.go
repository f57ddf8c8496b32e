// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"
	"unique"
)

// target is what a request asks for. Requests are written by hand: net/http's
// client costs two goroutines per connection, which at a thousand connections
// a second would measure the client.
type target struct {
	// address is host:port.
	address string
	// once asks the server to close the connection after its answer, again does not.
	once, again []byte
	// readers are reused: at a thousand connections a second their buffers would
	// be most of what the collector has to do.
	readers sync.Pool
}

func newTarget(raw string) (*target, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" || u.Hostname() == "" {
		return nil, errors.New("-target must be an URL like http://172.20.255.200/ or http://[fd00::1]/")
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	head := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: fairlead-probe\r\n", u.RequestURI(), u.Host)
	return &target{
		address: net.JoinHostPort(u.Hostname(), port),
		once:    []byte(head + "Connection: close\r\n\r\n"), again: []byte(head + "\r\n"),
	}, nil
}

// answer is what a response says about who gave it; fields are empty if the
// server is not a whoami.
type answer struct {
	hostname string
	// remote is the client's address as the server saw it.
	remote string
}

// maxBody bounds what is read of a response, in bytes.
const maxBody = 1 << 20

// ask sends a request and reads its response until the deadline.
func ask(conn net.Conn, r *bufio.Reader, request []byte, deadline time.Time) (answer, error) {
	if err := conn.SetDeadline(deadline); err != nil {
		return answer{}, err
	}
	if _, err := conn.Write(request); err != nil {
		return answer{}, err
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return answer{}, err
	}
	if resp.StatusCode != http.StatusOK {
		return answer{}, fmt.Errorf("status %s", resp.Status)
	}
	return parseAnswer(string(b)), nil
}

func parseAnswer(body string) answer {
	var a answer
	for line := range strings.Lines(body) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch name {
		case "Hostname":
			// There are few, and a run of hours keeps each attempt.
			a.hostname = unique.Make(value).Value()
		case "RemoteAddr":
			a.remote = unique.Make(address(value)).Value()
		}
	}
	return a
}

func address(remote string) string {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return remote
	}
	return ap.Addr().Unmap().String()
}

// attempt is one request on a connection of its own.
type attempt struct {
	start, end time.Time
	// late is how long after its time the attempt started.
	late time.Duration
	// err is empty for a complete answer with status 200, else the kind of error.
	err string
	answer
}

// try connects, asks once and resets the connection: ports of connections that
// were closed in the usual way are not free for a minute, and at a thousand
// connections a second they would run out.
func try(ctx context.Context, o options) attempt {
	a := attempt{start: time.Now()}
	deadline := a.start.Add(o.timeout)
	conn, err := (&net.Dialer{Deadline: deadline}).DialContext(ctx, "tcp", o.target.address)
	if err == nil {
		r, ok := o.target.readers.Get().(*bufio.Reader)
		if !ok {
			r = bufio.NewReader(nil)
		}
		r.Reset(conn)
		a.answer, err = ask(conn, r, o.target.once, deadline)
		o.target.readers.Put(r)
		if tcp, ok := conn.(*net.TCPConn); ok {
			err = errors.Join(err, tcp.SetLinger(0))
		}
		err = errors.Join(err, conn.Close())
	}
	a.end = time.Now()
	if err != nil {
		a.err = errorKind(err.Error())
	}
	return a
}

// probe starts an attempt every interval whether or not earlier ones have
// ended, and returns all of them in starting order.
func probe(ctx context.Context, o options) []attempt {
	n := int((o.duration + o.interval - 1) / o.interval)
	attempts := make([]attempt, n)
	started, begin := 0, time.Now()
	var wg sync.WaitGroup
	for i := range attempts {
		due := begin.Add(time.Duration(i) * o.interval)
		if !waitUntil(ctx, due) {
			break
		}
		started++
		wg.Go(func() {
			late := time.Since(due)
			attempts[i] = try(context.WithoutCancel(ctx), o)
			attempts[i].late = late
		})
	}
	wg.Wait()
	return attempts[:started]
}

// waitUntil returns false if ctx ends before.
func waitUntil(ctx context.Context, due time.Time) bool {
	wait := time.Until(due)
	if wait <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
