// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// receiveBuffer is how many bytes of frames may wait to be read: some 5,000 short ones, a
// tenth of a second of a storm, instead of the default's 270. It is memory of the kernel
// that is used only while they wait.
const receiveBuffer = 4 << 20

// frames is a packet socket on one link. It reads and writes past the library's methods,
// which allocate for every frame: a storm of frames that are not for us must not be one of
// the garbage collector too.
type frames struct {
	conn *packet.Conn
	raw  syscall.RawConn

	// readOnce reads into in, for [frames.ReadFrame], of which there is one at a time.
	readOnce func(fd uintptr) bool
	in       []byte
	read     int
	readErr  error

	mu        sync.Mutex
	writeOnce func(fd uintptr) bool
	out       []byte // guarded by mu
	writeErr  error  // guarded by mu
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
	raw, err := conn.SyscallConn()
	if err == nil {
		err = setReceiveBuffer(raw)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare packet socket on %s: %w", l.Name, err), conn.Close())
	}
	f := &frames{conn: conn, raw: raw}
	f.readOnce = func(fd uintptr) bool {
		f.read, f.readErr = unix.Read(int(fd), f.in)
		return !again(f.readErr)
	}
	f.writeOnce = func(fd uintptr) bool {
		_, f.writeErr = unix.Write(int(fd), f.out)
		return !again(f.writeErr)
	}
	return f, nil
}

// again says that the kernel has nothing yet, or no room.
func again(err error) bool { return errors.Is(err, unix.EAGAIN) }

// setReceiveBuffer sets the size, beyond the system's limit where that is allowed
// (CAP_NET_ADMIN).
func setReceiveBuffer(raw syscall.RawConn) error {
	var failed error
	err := raw.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
		}
	})
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("set receive buffer: %w", err)
	}
	return nil
}

// ReadFrame reads one frame; what does not fit in b is cut off. It fails when the
// connection is closed or the link gone. Only one goroutine may call it.
func (c *frames) ReadFrame(b []byte) (int, error) {
	c.in = b
	for {
		err := c.raw.Read(c.readOnce)
		if err == nil {
			err = c.readErr
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("read frame: %w", err)
		}
		return c.read, nil
	}
}

// WriteFrame sends one frame as it is; to whom, it says itself. It waits while the link's
// queue is full.
func (c *frames) WriteFrame(b []byte, _ MAC) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = b
	for {
		err := c.raw.Write(c.writeOnce)
		if err == nil {
			err = c.writeErr
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("write frame: %w", err)
		}
		return nil
	}
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

// ifindex is what a filter compares with the index of the link that a frame is on. A
// packet socket is bound to a link and yet hears what the kernel passes on to the VLANs
// and macvlans above it: who has an address there, or asks for it, is on another segment.
func ifindex(index int) uint32 { return uint32(index) } //nolint:gosec // an index
