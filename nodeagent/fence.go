// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"sync/atomic"
	"time"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/l2"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

// fenceAfter is how long a silence of the owner loop stops the wire: by then peers may
// soon take over. A process that was frozen for longer finds old questions in its sockets
// and old work in its queues when it goes on, before it can learn who has what by now.
const fenceAfter = crashGrace - time.Second

// fence lets frames through while the owner loop comes round.
type fence struct {
	start time.Time
	// until counts from start; 0 is for ever.
	until atomic.Int64
}

// extend lets frames through for another while.
func (f *fence) extend(now time.Time) { f.until.Store(int64(now.Sub(f.start) + fenceAfter)) }

func (f *fence) open() bool {
	until := f.until.Load()
	return until == 0 || time.Since(f.start) < time.Duration(until)
}

// around has connections go through the fence.
func (f *fence) around(open l2.Opener) l2.Opener {
	return func(k kernel.Link) (l2.Conn, error) {
		c, err := open(k)
		if err != nil {
			return nil, err
		}
		return fenced{c, f}, nil
	}
}

type fenced struct {
	l2.Conn
	fence *fence
}

// ReadFrame drops what arrived too long ago.
func (c fenced) ReadFrame(b []byte) (int, error) {
	for {
		n, err := c.Conn.ReadFrame(b)
		if err != nil || c.fence.open() {
			return n, err //nolint:wrapcheck // the connection says what failed
		}
	}
}

// WriteFrame drops what was to be sent too long ago.
func (c fenced) WriteFrame(b []byte, to kernel.MAC) error {
	if !c.fence.open() {
		return nil
	}
	return c.Conn.WriteFrame(b, to) //nolint:wrapcheck // the connection says what failed
}
