// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
)

// relayPort is where nodes find the API server on the gateway.
const relayPort = 6443

// relay listens in a namespace and passes connections on to the API server, which listens
// on the loopback of this machine's own. The encryption is end to end.
type relay struct {
	listener net.Listener
	to       string

	mu    sync.Mutex
	conns map[net.Conn]struct{} // guarded by mu
	wg    sync.WaitGroup
}

func newRelay(ctx context.Context, ns *namespace, at netip.AddrPort, server string) (*relay, error) {
	r := &relay{to: strings.TrimPrefix(server, "https://"), conns: map[net.Conn]struct{}{}}
	err := ns.do(func() (err error) {
		r.listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", at.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen for the API server's clients: %w", err)
	}
	r.wg.Go(func() {
		for {
			c, err := r.listener.Accept()
			if err != nil {
				return // closed
			}
			r.wg.Go(func() { r.serve(context.WithoutCancel(ctx), c) })
		}
	})
	return r, nil
}

func (r *relay) serve(ctx context.Context, c net.Conn) {
	defer c.Close()
	up, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.to)
	if err != nil {
		return // the client sees its connection closed and tries again
	}
	defer up.Close()
	r.mu.Lock()
	r.conns[c], r.conns[up] = struct{}{}, struct{}{}
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.conns, c)
		delete(r.conns, up)
		r.mu.Unlock()
	}()
	done := make(chan struct{})
	go func() {
		defer close(done)
		pass(up, c)
	}()
	pass(c, up)
	<-done
}

// pass copies until the source ends, and then ends both, which wakes the other direction.
func pass(to, from net.Conn) {
	// Either end may go at any time: that is what a relay is told by an error.
	_, _ = io.Copy(to, from)
	_ = to.Close()
	_ = from.Close()
}

func (r *relay) close() {
	_ = r.listener.Close() // no data is lost by it
	r.mu.Lock()
	for c := range r.conns {
		_ = c.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
}
