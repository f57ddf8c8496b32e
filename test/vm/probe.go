// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Probe returns nil if this machine's own kernel has what the data plane needs: ip_vs and
// dummy links. It looks in a network namespace that it makes and forgets, and needs root
// for that. The kernel may load modules because of it.
func Probe() error {
	done := make(chan error)
	go func() {
		// The thread is never unlocked and ends with the goroutine, and the namespace with it.
		runtime.LockOSThread()
		done <- probe()
	}()
	return <-done
}

func probe() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace (needs root): %w", err)
	}
	var errs []error
	if _, err := netlink.GenlFamilyGet("IPVS"); err != nil {
		errs = append(errs, fmt.Errorf("no ip_vs: %w", err))
	}
	if err := netlink.LinkAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "probe"}}); err != nil {
		errs = append(errs, fmt.Errorf("no dummy links: %w", err))
	}
	return errors.Join(errs...)
}
