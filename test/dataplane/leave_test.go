// SPDX-License-Identifier: Apache-2.0

//go:build ipvs

package dataplane

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

// settings that agents change, and restore when they leave.
var settings = []string{
	"net/ipv4/vs/conntrack", "net/ipv4/vs/expire_nodest_conn", "net/ipv4/vs/expire_quiescent_template", "net/ipv4/vs/sloppy_tcp",
	"net/ipv4/conf/all/arp_ignore", "net/ipv4/conf/all/arp_announce", "net/ipv4/conf/eth0/arp_ignore", "net/ipv4/conf/eth0/arp_announce",
}

// others are things on a node that belong to nobody here.
var others = []string{
	"ip link add other0 type dummy", "ip addr add 192.0.2.1/32 dev other0", "ip link set other0 up",
	"ipvsadm -A -t 192.0.2.1:80 -s wlc", "ipvsadm -a -t 192.0.2.1:80 -r 192.0.2.2:80 -m",
	"nft add table inet other", "nft add chain inet other in { type filter hook input priority 0 ; }", "nft add rule inet other in ip daddr 192.0.2.1 accept",
}

func readSettings(from Place) string {
	var out string
	_ = from.Do(func() error {
		for _, name := range settings {
			b, err := os.ReadFile(filepath.Join("/proc/sys", name))
			out += fmt.Sprintf("%s = %s %v\n", name, strings.TrimSpace(string(b)), err)
		}
		return nil
	})
	return out
}

// expireNodest is a setting of kube-proxy in ipvs mode, made when it starts, which the agent
// sets back while it runs.
const expireNodest = "net/ipv4/vs/expire_nodest_conn"

// asProxySets has settings as kube-proxy leaves them when it ran in ipvs mode, with strict ARP.
// Whether the agent found expireNodest before kube-proxy had made it, or afterwards, it says.
func asProxySets(settings, nodest string) string {
	return strings.NewReplacer(
		expireNodest+" = 0", expireNodest+" = "+nodest,
		"vs/conntrack = 0", "vs/conntrack = 1", "vs/expire_quiescent_template = 0", "vs/expire_quiescent_template = 1",
		"conf/all/arp_ignore = 0", "conf/all/arp_ignore = 1", "conf/all/arp_announce = 0", "conf/all/arp_announce = 2",
	).Replace(settings)
}

// testLeave takes the DaemonSet away and stops the agents, under Services: nothing of ours
// stays, nothing of others goes, and every setting is what a fresh network has.
func testLeave(t *testing.T, w *World) {
	for _, s := range []*Service{
		{Name: "leave-4", Pods: []*Pod{w.A, w.B}, Annotations: map[string]string{v1alpha1.AnnotationScheduler: "mh"}},
		{Name: "leave-6", IPv6: true, Local: true, Pods: []*Pod{w.A, w.B}},
	} {
		w.serve(t, s)
	}
	before := map[*rig.Node]Kernel{}
	for _, n := range w.Rig.Nodes() {
		for _, command := range others {
			f := strings.Fields(command)
			if err := run(t.Context(), n, f[0], f[1:]...); err != nil {
				t.Fatal(err)
			}
		}
		before[n] = readKernel(t, n)
	}
	nodest := map[*rig.Node]string{}
	for _, n := range w.Rig.Nodes() {
		agent, err := w.Rig.API().NodeAgents().Get(t.Context(), n.Name(), metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(agent.Status.KernelSettings, func(k v1alpha1.KernelSetting) bool { return k.Name == expireNodest })
		if i < 0 {
			t.Fatalf("%s does not say how it found %s", n.Name(), expireNodest)
		}
		nodest[n] = agent.Status.KernelSettings[i].Former
	}
	err := w.Rig.Kube().AppsV1().DaemonSets(harness.Namespace).Delete(t.Context(), harness.AgentProgram, metav1.DeleteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	for _, n := range w.Rig.Nodes() {
		go func() { done <- n.Terminate() }()
	}
	for range w.Rig.Nodes() {
		err = errors.Join(err, <-done)
	}
	if err != nil {
		t.Error(err)
	}
	for _, n := range w.Rig.Nodes() {
		now := readKernel(t, n)
		err := same("what is others'", before[n].Foreign, now.Foreign)
		if now.Ours != "" {
			err = errors.Join(err, fmt.Errorf("this is left:\n%s", now.Ours))
		}
		fresh := readSettings(w.Near)
		if slices.Contains(modes(), IPVS) {
			fresh = asProxySets(fresh, nodest[n])
		}
		if err := errors.Join(err, same("a setting", fresh, readSettings(n))); err != nil {
			t.Errorf("%s: %v", n.Name(), err)
		}
	}
}
