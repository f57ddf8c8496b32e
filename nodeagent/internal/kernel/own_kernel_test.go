// SPDX-License-Identifier: Apache-2.0

//go:build kernel

package kernel_test

import (
	"fmt"
	"testing"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/test/netns"
)

// What nodes that speak BGP have on their loopback link is theirs as well.
func TestOwnAddresses(t *testing.T) {
	k, err := kernel.New()
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	netns.AddVeth(t, "own0", "192.0.2.2/24", "own1", "198.51.100.2/24")
	netns.AddAddr(t, "own0", "192.0.2.1/24") // secondary
	netns.AddAddr(t, "lo", "203.0.113.1/32")
	links, err := k.Own()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, l := range links {
		got[l.Name] = fmt.Sprint(l.Prefixes)
	}
	for name, want := range map[string]string{"lo": "[203.0.113.1/32]", "own0": "[192.0.2.2/24 192.0.2.1/24]", "own1": "[198.51.100.2/24]"} {
		if got[name] != want {
			t.Errorf("%s has %s, want %s (of %v)", name, got[name], want, got)
		}
	}
}
