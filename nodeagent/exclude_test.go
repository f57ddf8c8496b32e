// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"regexp"
	"testing"
)

// The interfaces that are left out by default are those that MetalLB's shipped
// configuration leaves out: ^docker.*, ^cbr.*, ^dummy.*, ^virbr.*, ^lxcbr.*, ^veth.*, ^lo$,
// ^cali.*, ^tunl.*, ^flannel.*, ^kube-ipvs.*, ^cni.*, ^nodelocaldns.*, ^lxc.*
func TestDefaultExclude(t *testing.T) {
	t.Parallel()
	exclude := regexp.MustCompile(Defaults(env("NODE_NAME", "a")).ExcludeInterfaces)
	for name, want := range map[string]bool{
		"docker0": true, "docker_gwbridge": true, "cbr0": true, "dummy0": true, "dummy-fairlead": true, "virbr0": true,
		"lxcbr0": true, "veth1a2b": true, "lo": true, "cali123": true, "tunl0": true, "flannel.1": true, "kube-ipvs0": true,
		"cni0": true, "nodelocaldns": true, "lxc_health": true,
		"eth0": false, "eth0.5": false, "bond0": false, "br0": false, "br-lan": false, "lo0": false, "lan0": false, "wlan0": false,
		"enp1s0f0": false, "team0": false, "vlan7": false, "mydocker0": false,
	} {
		if got := exclude.MatchString(name); got != want {
			t.Errorf("%s is left out: %t, want %t", name, got, want)
		}
	}
}
