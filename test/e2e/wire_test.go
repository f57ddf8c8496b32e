// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/soak/l2"
)

// give puts an address on a host's link until the test ends or the function that it
// returns was called.
func (s *scenario) give(host, address, link string) (take func()) {
	s.t.Helper()
	s.on(host, "ip", "addr", "add", address+"/32", "dev", link)
	taken := false
	take = func() {
		if taken {
			return
		}
		taken = true
		if _, err := lab.Exec(context.WithoutCancel(s.t.Context()), host, "ip", "addr", "del", address+"/32", "dev", link); err != nil {
			s.t.Error(err)
		}
	}
	s.t.Cleanup(take)
	return take
}

// foreignHost has a host outside the cluster that holds a Service's address, before it is
// announced and afterwards.
func foreignHost(s *scenario) {
	t := s.t
	const held, later = "172.20.251.105", "172.20.251.106"
	s.begin("foreign-host", held+"-"+later)
	mac, err := lab.MAC(t.Context(), "mypc2")
	if err != nil {
		t.Fatal(err)
	}
	take := s.give("mypc2", held, "eth0")
	s.create(service{name: "held"}, service{name: "later"})
	s.has("held", held)
	if st := s.condition("held", v1alpha1.ConditionAnnounced, reason.DuplicateAddress); st != metav1.ConditionFalse {
		t.Errorf("Announced is %q, want False", st)
	}
	s.told("Service", "held", reason.DuplicateAddress, mac)
	if err := lab.BuildPlugin(t.Context()); err != nil {
		t.Fatal(err)
	}
	res, err := lab.Plugin(t.Context(), "", "explain", "service", "-n", s.name, "held")
	if !strings.Contains(res.Stdout, reason.DuplicateAddress.String()) || !strings.Contains(res.Stdout, mac) {
		t.Errorf("explain does not name %s and %s, %v:\n%s", reason.DuplicateAddress, mac, err, res.Stdout)
	}
	if got, err := lab.OneMAC(t.Context(), "mypc", held); err != nil || got != mac {
		t.Errorf("%s answers, %v; want the foreign host alone", got, err)
	}

	// It goes: nobody need do anything else.
	take()

	// Another one comes while the address is announced, and says so.
	s.has("later", later)
	s.owner(later)
	s.give("mypc2", later, "eth0")
	s.on("mypc2", "arping", "-U", "-c", "2", "-I", "eth0", later)
	if st := s.condition("later", v1alpha1.ConditionConflict, reason.DuplicateAddress); st != metav1.ConditionTrue {
		t.Errorf("Conflict is %q, want True", st)
	}
	s.told("Service", "later", reason.DuplicateAddress, mac)

	s.eventually(patience, func(ctx context.Context) error {
		_, err := lab.Owner(ctx, held)
		return err
	})
	s.owner(held)
}

// addressOnLoopback has a Service's address on the loopback link of a node that does not
// announce it, as IPVS has: the kernel there would answer for it too.
func addressOnLoopback(s *scenario) {
	t := s.t
	const a = "172.20.251.107"
	s.begin("loopback", a+"/32")
	s.create(service{name: "web"})
	s.has("web", a)
	owner := s.owner(a)
	other := otherWorker(owner)
	s.give(other, a, "lo")
	s.eventually(patience, func(ctx context.Context) error {
		agent, err := harness.Get[*v1alpha1.NodeAgent](ctx, lab, "nodeagent.fairlead.dev", other)
		if err != nil {
			return err
		}
		const name = "net/ipv4/conf/eth0/arp_ignore"
		if !slices.ContainsFunc(agent.Status.KernelSettings, func(k v1alpha1.KernelSetting) bool { return k.Name == name && k.Value == "1" }) {
			return fmt.Errorf("%s changed %v, want %s in it", other, agent.Status.KernelSettings, name)
		}
		return nil
	})
	if got := s.owner(a); got != owner {
		t.Errorf("%s announces the address now, want %s as before", got, owner)
	}
}

// otherWorker is one that is not the given node.
func otherWorker(node string) string {
	for _, n := range harness.Workers() {
		if n != node {
			return n
		}
	}
	return ""
}

// preferredNodes has an advertisement that prefers a node, then another: what has an owner
// stays there.
func preferredNodes(s *scenario) {
	t := s.t
	s.begin("preferred", "172.20.251.108-172.20.251.109")
	prefer := func(node string) {
		t.Helper()
		s.patchAd(`{"preferredNodeSelectors":[{"weight":100,"preference":{"matchLabels":{"kubernetes.io/hostname":"` + node + `"}}}]}`)
	}
	prefer("worker3")
	s.create(service{name: "first"})
	first := s.address("first")
	s.ownedBy(first, "worker3")
	prefer("worker2")
	s.create(service{name: "second"})
	s.ownedBy(s.address("second"), "worker2")
	if got := s.owner(first); got != "worker3" {
		t.Errorf("%s announces the first address now, want worker3 as before", got)
	}
}

// rotatedKey replaces the key of the agents' gossip while they run: nobody loses sight of
// another, so that no address moves.
func rotatedKey(s *scenario) {
	t := s.t
	const secret, key = "fairlead-gossip", "keys"
	s.begin("rotated", "172.20.251.117-172.20.251.119")
	s.create(service{name: "a"}, service{name: "b"}, service{name: "c"})
	var addresses []string
	for _, name := range []string{"a", "b", "c"} {
		addresses = append(addresses, s.address(name))
		s.owner(addresses[len(addresses)-1])
	}
	keys := func(ctx context.Context) (string, error) {
		sec, err := harness.Get[*corev1.Secret](ctx, lab, "secret", "-n", harness.Namespace, secret)
		if err != nil {
			return "", err
		}
		return strings.TrimSpace(string(sec.Data[key])), nil
	}
	before, err := keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w := l2.NewWatch(t.Context(), lab, addresses)
	s.kubectl("annotate", "secret", "-n", harness.Namespace, secret, "--overwrite", fmt.Sprintf("fairlead.dev/rotate-key=%d", time.Now().UnixNano()))
	poked := time.Now()
	took := s.eventually(2*patience, func(ctx context.Context) error {
		// A kubelet looks at a pod's Secrets once a minute, and when the pod changes.
		if now := time.Now(); now.Sub(poked) > 2*time.Second {
			poked = now
			if _, err := lab.Kubectl(ctx, "annotate", "pods", "-n", harness.Namespace, "-l", "app.kubernetes.io/component=node-agent",
				"--overwrite", fmt.Sprintf("example.com/poked=%d", now.UnixNano())); err != nil {
				return err
			}
		}
		now, err := keys(ctx)
		if err == nil && (strings.Contains(now, "\n") || now == "" || now == before) {
			err = errors.New("the Secret has not one new key yet")
		}
		return err
	})
	t.Logf("the key was replaced after %s", took)
	s.eventually(patience, func(ctx context.Context) error { return lab.AgentsReady(ctx, allNodes) })
	if changes := w.Stop(); len(changes) > 0 {
		t.Errorf("owners changed %v, want none", changes)
	}
}

// pristine checks that nothing of a node's kernel is as an agent would have set it.
func pristine(t *testing.T, node string) {
	t.Helper()
	res, err := lab.Exec(t.Context(), node, "sysctl", "-n", "net.ipv4.conf.eth0.arp_ignore", "net.ipv4.conf.eth0.arp_announce")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(res.Stdout); !slices.Equal(got, []string{"0", "0"}) {
		t.Errorf("arp_ignore and arp_announce of %s are %v, want 0 and 0 as before", node, got)
	}
}
