// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"net"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// frames is a packet socket on one link.
type frames struct {
	conn *packet.Conn
}

func openFrames(l Link, etherType int, instructions []bpf.Instruction) (*frames, error) {
	filter, err := bpf.Assemble(instructions)
	if err != nil {
		return nil, fmt.Errorf("assemble filter: %w", err)
	}
	ifi := &net.Interface{Index: l.Index, Name: l.Name, HardwareAddr: l.MAC[:]}
	conn, err := packet.Listen(ifi, packet.Raw, etherType, &packet.Config{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("open packet socket on %s: %w", l.Name, err)
	}
	return &frames{conn: conn}, nil
}

// ReadFrame reads one frame. It fails when the connection is closed or the link gone.
func (c *frames) ReadFrame(b []byte) (int, error) {
	for {
		n, _, err := c.conn.ReadFrom(b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("read frame: %w", err)
		}
		return n, nil
	}
}

// WriteFrame sends one frame as it is.
func (c *frames) WriteFrame(b []byte, to MAC) error {
	if _, err := c.conn.WriteTo(b, &packet.Addr{HardwareAddr: to[:]}); err != nil {
		return fmt.Errorf("write frame: %w", err)
	}
	return nil
}

// Close ends the connection and a pending [frames.ReadFrame].
func (c *frames) Close() error {
	if err := c.conn.Close(); err != nil {
		return fmt.Errorf("close packet socket: %w", err)
	}
	return nil
}

// skipTo is how far a check that fails jumps: from instruction at to instruction reject.
func skipTo(reject, at int) uint8 { return uint8(reject - at - 1) } //nolint:gosec // filters are short
