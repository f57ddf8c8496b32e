// SPDX-License-Identifier: Apache-2.0

package routers

// RemoteScript starts FRR's daemons where Debian's package expects them, for a machine that
// has a /run of its own: vtysh finds them there without being told. They go into the
// background when they can be configured, and end with the machine.
const RemoteScript = "install -d -o frr -g frr /run/frr && for d in zebra bfdd bgpd; do " + frrDaemons + "/$d -d -f /dev/null; done"

// RemoteStart is the command that starts FRR on a machine of a lab, as root.
func RemoteStart() []string { return []string{"sh", "-c", RemoteScript} }

// RemoteVtysh is the command that runs vtysh there.
func RemoteVtysh(args ...string) []string { return append([]string{"vtysh"}, args...) }
