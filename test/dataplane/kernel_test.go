// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"net/netip"
	"slices"
	"testing"
)

// What belongs to nobody known must count as foreign: a leftover that is taken for
// kube-proxy's would never be found.
func TestOwnersInTheKernel(t *testing.T) {
	t.Parallel()
	var k Kernel
	for server, want := range map[string]*string{
		"10.30.64.7:80": &k.Ours, "[fd00:30::1:7]:80": &k.Ours, "262144": &k.Ours,
		"10.96.0.1:443": &k.Proxy, "10.30.0.10:30080": &k.Proxy, "192.0.2.1:80": &k.Foreign,
		"10.30.64.7:32049": &k.Proxy, "[fd00:30::1:7]:30001": &k.Proxy,
	} {
		if got := k.serverOwner(server); got != want {
			t.Errorf("virtual server %s is taken for another's", server)
		}
	}
	for table, want := range map[string]*string{"fairlead": &k.Ours, "kube-proxy": &k.Proxy, "nat": &k.Proxy, "other": &k.Foreign} {
		if got := k.tableOwner(table); got != want {
			t.Errorf("table %s is taken for another's", table)
		}
	}
	for link, want := range map[string]*string{"dummy-fairlead": &k.Ours, "kube-ipvs0": &k.Proxy, "eth0": &k.Foreign, "dummy0": &k.Foreign} {
		if got := k.linkOwner(link); got != want {
			t.Errorf("link %s is taken for another's", link)
		}
	}
}

func TestReadingWhatToolsPrint(t *testing.T) {
	t.Parallel()
	got := tables("# a warning\ntable ip a {\n\tchain x {\n\t}\n}\n# another, of somebody\ntable inet b {\n}\n")
	if want := []string{"table ip a {\n\tchain x {\n\t}\n}\n", "table inet b {\n}\n"}; !slices.Equal(got, want) {
		t.Errorf("tables: %q", got)
	}
	rules := "-A -t 10.30.64.0:80 -s rr\n-a -t 10.30.64.0:80 -r 10.244.10.2:8080 -m -w 1\n-a -u 10.30.64.0:80 -r 10.244.10.2:8080 -m -w 1\n-a -t 10.30.64.0:8080 -r 10.244.10.2:8080 -m -w 1\n"
	if n := len(slices.Collect(realsOf(rules, netip.MustParseAddr("10.30.64.0")))); n != 1 {
		t.Errorf("%d real servers, want 1", n)
	}
}
