// SPDX-License-Identifier: Apache-2.0

// Command fairlead-probe measures how long an address does not answer. It owns
// the definition of a blackout that tests and benchmarks quote, runs on a lab
// client, and must not let a connection that hangs delay the next one.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "fairlead-probe:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

type options struct {
	target   string
	interval time.Duration
	timeout  time.Duration
	duration time.Duration
}

func run(ctx context.Context, args []string, out io.Writer) error {
	var o options
	fs := flag.NewFlagSet("fairlead-probe", flag.ContinueOnError)
	fs.StringVar(&o.target, "target", "", "URL to get, for example http://172.20.255.200/")
	fs.DurationVar(&o.interval, "interval", 20*time.Millisecond, "time between two attempts")
	fs.DurationVar(&o.timeout, "timeout", 500*time.Millisecond, "limit for one attempt, from connecting to the last byte")
	fs.DurationVar(&o.duration, "for", 15*time.Second, "how long to go on")
	asJSON := fs.Bool("json", false, "print the report as JSON")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if o.target == "" || o.interval <= 0 || o.timeout <= 0 || o.duration <= 0 {
		return fmt.Errorf("-target is needed, and times must be positive")
	}
	r := newReport(o.interval, probe(ctx, o))
	if *asJSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	_, err := fmt.Fprint(out, r)
	return err
}

// attempt is one request.
type attempt struct {
	start, end time.Time
	// err is empty for a complete answer with status 200.
	err        string
	hostname   string
	remoteAddr string
}

// probe starts an attempt every interval, each on a new connection, whether or
// not earlier ones have ended, and returns all of them in starting order.
func probe(ctx context.Context, o options) []attempt {
	ctx, cancel := context.WithTimeout(ctx, o.duration)
	defer cancel()
	// Keep-alive would test one old connection instead of the address.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	tick := time.NewTicker(o.interval)
	defer tick.Stop()
	var pending []chan attempt
	for {
		c := make(chan attempt, 1)
		pending = append(pending, c)
		go func() { c <- try(context.WithoutCancel(ctx), client, o) }()
		select {
		case <-ctx.Done():
			out := make([]attempt, 0, len(pending))
			for _, c := range pending {
				out = append(out, <-c)
			}
			return out
		case <-tick.C:
		}
	}
}

func try(ctx context.Context, client *http.Client, o options) attempt {
	a := attempt{start: time.Now()}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	body, err := get(ctx, client, o.target)
	a.end = time.Now()
	if err != nil {
		a.err = err.Error()
		return a
	}
	for line := range strings.Lines(body) {
		line = strings.TrimSpace(line)
		if v, ok := strings.CutPrefix(line, "Hostname: "); ok {
			a.hostname = v
		}
		if v, ok := strings.CutPrefix(line, "RemoteAddr: "); ok {
			a.remoteAddr = v
		}
	}
	return a
}

func get(ctx context.Context, client *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %s", resp.Status)
	}
	return string(b), nil
}
