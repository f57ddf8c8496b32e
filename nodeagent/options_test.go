// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		env  func(string) string
		args []string
		errs []string
	}{
		"as deployed": {env: env("NODE_NAME", "n", "NODE_IP", "192.0.2.1")},
		"no node":     {env: env(), errs: []string{"--node-name: must not be empty"}},
		"flag wins":   {env: env("NODE_NAME", ""), args: []string{"--node-name=n"}},
		"all faults at once": {
			env:  env("NODE_NAME", "n"),
			args: []string{"--node-ip=x", "--gossip-port=0", "--gossip-key-file=", "--health-address=0.0.0.0:1", "--metrics-address=1", "--exclude-interfaces=(", "--announce-interval=1s", "--daemonset-name=", "--restart-grace=1s", "--profile=x"},
			errs: []string{"--node-ip", "--gossip-port: 0", "--gossip-key-file", "--health-address: 0.0.0.0 is not a loopback", "--metrics-address", "--exclude-interfaces", "--announce-interval: 1s is neither", "--daemonset-name", "--restart-grace: 1s is neither", `--profile: "x" is none`},
		},
		"always leave": {env: env("NODE_NAME", "n"), args: []string{"--restart-grace=0"}},
		"too patient":  {env: env("NODE_NAME", "n"), args: []string{"--restart-grace=2m"}, errs: []string{"--restart-grace: 2m0s is neither"}},
		"fast":         {env: env("NODE_NAME", "n"), args: []string{"--profile=fast"}},
		"no repeats":   {env: env("NODE_NAME", "n"), args: []string{"--announce-interval=0"}},
		"no metrics":   {env: env("NODE_NAME", "n"), args: []string{"--metrics-address="}},
		"data plane":   {env: env("NODE_NAME", "n"), args: []string{"--data-plane=kube-proxy", "--cluster-cidrs=10.244.0.0/16, fd00::/48", "--sysctl-root=/host/proc/sys"}},
		"BGP":          {env: env("NODE_NAME", "n"), args: []string{"--bgp-drain=0", "--metallb-metric-names", "--bgp-listen-port=179"}},
		"no port":      {env: env("NODE_NAME", "n"), args: []string{"--bgp-listen-port=65536"}, errs: []string{"--bgp-listen-port: 65536 is not between 0 and 65535"}},
		"endless":      {env: env("NODE_NAME", "n"), args: []string{"--bgp-drain=11m"}, errs: []string{"--bgp-drain: 11m0s is not between"}},
		"no such data plane": {
			env: env("NODE_NAME", "n"), args: []string{"--data-plane=x", "--sysctl-root="}, errs: []string{`--data-plane: "x" is none`, "--sysctl-root"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := Defaults(tt.env)
			fs := pflag.NewFlagSet("t", pflag.ContinueOnError)
			o.AddFlags(fs)
			if err := fs.Parse(tt.args); err != nil {
				t.Fatal(err)
			}
			err := o.Validate()
			if len(tt.errs) == 0 {
				if err != nil {
					t.Errorf("Validate: %v", err)
				}
				return
			}
			for _, want := range tt.errs {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want %q in it", err, want)
				}
			}
		})
	}
}

func TestClusterCIDRs(t *testing.T) {
	t.Parallel()
	var o Options
	fs := pflag.NewFlagSet("t", pflag.ContinueOnError)
	o.AddFlags(fs)
	if err := fs.Parse([]string{"--cluster-cidrs=10.244.3.7/16, fd00::/48,"}); err != nil {
		t.Fatal(err)
	}
	if got := (prefixes{&o.ClusterCIDRs}).String(); got != "10.244.0.0/16,fd00::/48" {
		t.Errorf("read %s", got)
	}
	if err := fs.Parse([]string{"--cluster-cidrs=10.244.0.0"}); err == nil {
		t.Error("took an address for a prefix")
	}
}

func TestInterfacesOfContainerNetworksAreExcluded(t *testing.T) {
	t.Parallel()
	re := regexp.MustCompile(Defaults(env()).ExcludeInterfaces)
	for _, name := range []string{"docker0", "cbr0", "dummy-fairlead", "virbr0", "lxcbr0", "veth12ab", "lo", "cali1", "tunl0", "flannel.1", "kube-ipvs0", "cni0", "nodelocaldns", "lxc_health"} {
		if !re.MatchString(name) {
			t.Errorf("%s may announce", name)
		}
	}
	for _, name := range []string{"eth0", "ens3", "bond0", "br0", "lo1", "wlan0", "vlan10"} {
		if re.MatchString(name) {
			t.Errorf("%s may not announce", name)
		}
	}
}
