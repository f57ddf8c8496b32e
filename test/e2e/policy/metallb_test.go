// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package policy

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// metallbBGP is what a user of MetalLB has, with a field of a release to come in each.
const metallbBGP = `
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {name: new, namespace: metallb-system}
spec:
  myASN: 64512
  peerASN: 64513
  localASN: 64999
  peerAddress: 192.0.2.254
  sourceAddress: 192.0.2.1
  peerPort: 1790
  holdTime: 90s
  keepaliveTime: 30s
  connectTime: 10s
  routerID: 192.0.2.1
  nodeSelectors: [{matchLabels: {rack: a}, matchExpressions: [{key: a, operator: In, values: [b]}]}]
  passwordSecret: {name: spine, namespace: metallb-system}
  bfdProfile: fast
  enableGracefulRestart: true
  ebgpMultiHop: true
  vrf: red
  disableMP: true
  dualStackAddressFamily: true
  futureField: {kept: true}
---
apiVersion: metallb.io/v1beta1
kind: BGPPeer
metadata: {name: old, namespace: metallb-system}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.253, bfdProfile: fast, password: p, futureField: {kept: true}}
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {name: all, namespace: metallb-system}
spec:
  aggregationLength: 24
  aggregationLengthV6: 64
  localPref: 4294967295
  communities: ["65000:1", "large:1:2:3", name]
  ipAddressPools: [a]
  ipAddressPoolSelectors: [{}]
  nodeSelectors: [{}]
  serviceSelectors: [{matchLabels: {a: b}}]
  peers: [new]
  futureField: {kept: true}
---
apiVersion: metallb.io/v1beta1
kind: BFDProfile
metadata: {name: fast, namespace: metallb-system}
spec: {receiveInterval: 50, transmitInterval: 50, detectMultiplier: 3, echoInterval: 50, echoMode: false, passiveMode: true, minimumTtl: 254, futureField: {kept: true}}
---
apiVersion: metallb.io/v1beta1
kind: Community
metadata: {name: names, namespace: metallb-system}
spec: {communities: [{name: name, value: "65000:2"}], futureField: {kept: true}}
`

// Where MetalLB never was, its objects apply to our definitions as they are; fields that
// nobody knows are kept, so that the controller can name them; a peer is the same in both
// versions.
func TestMetalLBCompat(t *testing.T) {
	compat := filepath.Join("deploy", "metallb-compat")
	ctx := t.Context()
	if out, err := cluster.run(ctx, "create", "-k", compat); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := cluster.run(context.WithoutCancel(ctx), "delete", "-k", compat, "--wait=false"); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	crds := []string{"wait", "--for=condition=Established", "--timeout=20s"}
	for _, plural := range []string{"bfdprofiles", "bgpadvertisements", "bgppeers", "communities", "ipaddresspools", "l2advertisements"} {
		crds = append(crds, "crd/"+plural+".metallb.io")
	}
	if out, err := cluster.run(ctx, crds...); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	file := filepath.Join(t.TempDir(), "bgp.yaml")
	if err := os.WriteFile(file, []byte(metallbBGP), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := cluster.run(ctx, "create", "--validate=strict", "-f", file); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for kind, want := range map[string]string{
		"bgppeers.v1beta1.metallb.io": "new=true old=true ", "bgppeers.v1beta2.metallb.io": "new=true old=true ",
		"bgpadvertisements.metallb.io": "all=true ", "bfdprofiles.metallb.io": "fast=true ", "communities.metallb.io": "names=true ",
	} {
		out, err := cluster.run(ctx, "get", kind, "-n", "metallb-system", "-o", "jsonpath={range .items[*]}{.metadata.name}={.spec.futureField.kept} {end}")
		if err != nil || out != want {
			t.Errorf("%s: %v: %s, want %s", kind, err, out, want)
		}
	}
	out, err := cluster.run(ctx, "create", "-k", compat)
	if err == nil || strings.Contains(out, "created") {
		t.Errorf("a second time: %v: %s; want that what is there is left alone", err, out)
	}
}

// What the plugin makes of a MetalLB configuration is accepted, every field known.
func TestMigratedConfigurations(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "..", "..", "cmd", "kubectl-fairlead", "internal", "command", "testdata", "migrate-*.txtar"))
	if err != nil || len(files) < 5 {
		t.Fatalf("examples of migrations: %v, %v", files, err)
	}
	tried := 0
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(data), "\n-- stdout --\n")
		out, _, _ := strings.Cut(rest, "\n-- ")
		if out == "" {
			continue
		}
		tried++
		t.Run(filepath.Base(f), func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "out.yaml")
			if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := cluster.run(t.Context(), "create", "--dry-run=server", "--validate=strict", "-f", file); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	if tried < 5 {
		t.Errorf("%d outputs tried", tried)
	}
}
