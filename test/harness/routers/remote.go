// SPDX-License-Identifier: Apache-2.0

package routers

// remoteDir is FRR's directory on a machine that has a /run of its own.
const remoteDir = "/run/fairlead-frr"

// remoteScript starts FRR in the background; it ends with the machine.
const remoteScript = `set -e
install -d -o frr -g frr "$1"
: >"$1/vtysh.conf"
setsid sh -c "$3" sh "$1" "$2" >"$1/log" 2>&1 </dev/null &
i=0; while ! [ -S "$1/bgpd.vty" ] && [ $i -lt 500 ]; do i=$((i+1)); sleep 0.02; done
`

// RemoteStart is the command that starts FRR on a machine of a lab, as root. It waits until
// FRR can be configured, at most 10 s.
func RemoteStart() []string {
	return []string{"sh", "-c", remoteScript, "sh", remoteDir, frrDaemons, frrScript}
}

// RemoteVtysh is the command that runs vtysh there.
func RemoteVtysh(args ...string) []string {
	return append([]string{"vtysh", "--vty_socket", remoteDir, "--config_dir", remoteDir}, args...)
}
