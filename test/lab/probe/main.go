// SPDX-License-Identifier: Apache-2.0

// Command fairlead-probe measures how long an address does not answer, what a
// stream of new connections loses, and which open connections break. It owns
// the definition of a blackout that tests and benchmarks quote, runs on a lab
// client, and must not let a connection that hangs delay the next one.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
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
	target   *target
	interval time.Duration
	timeout  time.Duration
	duration time.Duration
	// hold is how many connections are held open; 0 means a new one each time.
	hold int
}

// Defaults that depend on what is done: a connection that is held shall live
// through a failover, in which its first packets are lost.
const (
	newInterval  = 20 * time.Millisecond
	newTimeout   = 500 * time.Millisecond
	heldInterval = 100 * time.Millisecond
	heldTimeout  = 5 * time.Second
)

// limits against a typing error.
const (
	maxRate = 20_000
	maxHold = 10_000
)

func parse(args []string) (o options, asJSON bool, err error) {
	fs := flag.NewFlagSet("fairlead-probe", flag.ContinueOnError)
	url := fs.String("target", "", "URL to get, for example http://172.20.255.200/ or http://[fd00:172:20:255::200]/")
	rate := fs.Int("rate", 0, "attempts per second, in place of -interval")
	fs.DurationVar(&o.interval, "interval", 0, "time between two attempts, or two requests on a held connection (default 20ms, with -hold 100ms)")
	fs.DurationVar(&o.timeout, "timeout", 0, "limit for one attempt, from connecting to the last byte (default 500ms), or one request on a held connection (default 5s)")
	fs.DurationVar(&o.duration, "for", 15*time.Second, "how long to go on")
	fs.IntVar(&o.hold, "hold", 0, "hold so many connections open and send requests on each, in place of new ones")
	fs.BoolVar(&asJSON, "json", false, "print the report as JSON")
	if err := fs.Parse(args); err != nil {
		return o, false, err
	}
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if !given["interval"] {
		o.interval = newInterval
		if o.hold > 0 {
			o.interval = heldInterval
		}
	}
	if !given["timeout"] {
		o.timeout = newTimeout
		if o.hold > 0 {
			o.timeout = heldTimeout
		}
	}
	if given["rate"] {
		if given["interval"] || o.hold > 0 || *rate < 1 || *rate > maxRate {
			return o, false, fmt.Errorf("-rate must be 1 to %d, without -interval and -hold", maxRate)
		}
		o.interval = time.Second / time.Duration(*rate)
	}
	if o.interval <= 0 || o.timeout <= 0 || o.duration <= 0 || o.hold < 0 || o.hold > maxHold {
		return o, false, errors.New("times must be positive, and -hold not more than 10000")
	}
	o.target, err = newTarget(*url)
	return o, asJSON, err
}

func run(ctx context.Context, args []string, out io.Writer) error {
	o, asJSON, err := parse(args)
	if err != nil {
		return err
	}
	var r fmt.Stringer
	if o.hold > 0 {
		r = holdOpen(ctx, o)
	} else {
		r = newReport(o.interval, probe(ctx, o))
	}
	if asJSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	_, err = fmt.Fprint(out, r)
	return err
}
