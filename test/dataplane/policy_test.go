// SPDX-License-Identifier: Apache-2.0

//go:build ipvs

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/plane"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

const (
	// policed is the label of the pods that the policy is for.
	policed = "policed"
	// enforceTimeout bounds the time until enforcers apply a policy, or no longer.
	enforceTimeout = time.Minute
	// deniedFor is how long a denied client gets to wait in vain, and deniedTries how often.
	deniedFor   = 500 * time.Millisecond
	deniedTries = 2
)

// testPolicy has a real enforcer of network policies on the nodes of the pods: through IPVS,
// whom a policy denies gets no answer, and whom it allows still gets one.
func testPolicy(t *testing.T, w *World) {
	local := &Service{Name: "policy-local", Local: true, Pods: []*Pod{w.A, w.B}}
	cluster := &Service{Name: "policy-cluster", Pods: []*Pod{w.A, w.B}}
	for _, s := range []*Service{local, cluster} {
		if err := w.Create(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	addrs, err := w.Served(t.Context(), local, cluster)
	if err != nil {
		t.Fatal(err)
	}
	owner, err := w.Owner(t.Context(), addrs[local])
	if err != nil {
		t.Fatal(err)
	}
	if err := w.podObjects(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop := w.enforce(t)
	allowed, denied := w.Client, w.Via[:2] // those ask through the nodes of the pods
	to := func(s *Service) netip.AddrPort { return netip.AddrPortFrom(addrs[s], servicePort) }
	everybody := func(ctx context.Context) error {
		var errs []error
		for _, from := range append([]*rig.Host{allowed}, denied...) {
			for _, s := range []*Service{local, cluster} {
				for _, proto := range []Protocol{TCP, UDP} {
					if from == allowed && s == local && owner == w.Rig.Nodes()[2] {
						continue // which has no pod
					}
					_, err := Ask(ctx, from, proto, to(s))
					errs = append(errs, err)
				}
			}
		}
		return errors.Join(errs...)
	}
	if _, err := harness.Eventually(t.Context(), enforceTimeout, everybody); err != nil {
		t.Fatalf("without a policy: %v", err)
	}
	if err := w.allowOnly(t.Context(), allowed.IPv4()); err != nil {
		t.Fatal(err)
	}
	nobody := func(ctx context.Context) error {
		for i, from := range denied {
			for _, s := range []*Service{local, cluster} {
				for _, proto := range []Protocol{TCP, UDP} {
					if a, err := askWithin(ctx, from, proto, to(s), deniedFor); err == nil {
						return fmt.Errorf("through %s, pod %s answered %s by %s though a policy denies it", w.Rig.Nodes()[i].Name(), a.Pod, s.Name, proto)
					}
				}
			}
		}
		return nil
	}
	took, err := harness.Eventually(t.Context(), enforceTimeout, nobody)
	if err != nil {
		t.Fatal(err)
	}
	for range deniedTries {
		if err := nobody(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if owner != w.Rig.Nodes()[2] {
		a, err := Ask(t.Context(), allowed, TCP, to(local))
		if err != nil || a.Source != allowed.IPv4() {
			t.Errorf("whom the policy allows: %+v, %v", a, err)
		}
	}
	if err := w.Rig.Kube().NetworkingV1().NetworkPolicies(rig.Namespace).Delete(t.Context(), policed, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	back, err := harness.Eventually(t.Context(), enforceTimeout, everybody)
	if err != nil {
		t.Errorf("with the policy gone: %v", err)
	}
	w.say("a network policy was enforced after %s and gone %s after its end", took.Round(time.Millisecond), back.Round(time.Millisecond))
	stop()
	if err := w.Remove(t.Context(), local, cluster); err != nil {
		t.Error(err)
	}
}

// podObjects tells the API of the pods, for those who find pods there.
func (w *World) podObjects(ctx context.Context) error {
	pods := w.Rig.Kube().CoreV1().Pods(rig.Namespace)
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: rig.Namespace}}
	if _, err := w.Rig.Kube().CoreV1().ServiceAccounts(rig.Namespace).Create(ctx, account, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make the account of pods: %w", err)
	}
	for _, p := range []*Pod{w.A, w.B} {
		mount := false
		o, err := pods.Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: rig.Namespace, Labels: map[string]string{"app": policed}},
			Spec: corev1.PodSpec{
				NodeName: p.Node.Name(), AutomountServiceAccountToken: &mount, Containers: []corev1.Container{{Name: "c", Image: "none.invalid/c"}},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("tell of pod %s: %w", p.Name, err)
		}
		o.Status = corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: p.IPv4.String(), PodIPs: []corev1.PodIP{{IP: p.IPv4.String()}, {IP: p.IPv6.String()}},
		}
		if _, err := pods.UpdateStatus(ctx, o, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("tell of pod %s: %w", p.Name, err)
		}
	}
	return nil
}

// allowOnly makes the policy that lets only one client in.
func (w *World) allowOnly(ctx context.Context, client netip.Addr) error {
	_, err := w.Rig.Kube().NetworkingV1().NetworkPolicies(rig.Namespace).Create(ctx, &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: policed, Namespace: rig.Namespace},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": policed}},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
			Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{
				IPBlock: &networkingv1.IPBlock{CIDR: netip.PrefixFrom(client, client.BitLen()).String()},
			}}}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make the policy: %w", err)
	}
	return nil
}

// enforce runs kube-network-policies on the nodes of pods a and b until stop is called.
func (w *World) enforce(t *testing.T) (stop func()) {
	t.Helper()
	kube := w.Rig.Kube()
	meta := metav1.ObjectMeta{Name: enforcer, Namespace: metav1.NamespaceSystem}
	_, err := kube.CoreV1().ServiceAccounts(meta.Namespace).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	look := []string{"get", "list", "watch"}
	_, err = kube.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "test:" + enforcer},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"namespaces", "nodes", "pods"}, Verbs: look},
			{APIGroups: []string{networkingv1.GroupName}, Resources: []string{"networkpolicies"}, Verbs: look},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = kube.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "test:" + enforcer},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "test:" + enforcer},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: meta.Name, Namespace: meta.Namespace}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config, err := w.Rig.WriteKubeconfig(t.Context(), enforcer, meta.Namespace, meta.Name, nil)
	if err != nil {
		t.Fatal(err)
	}
	var running []*plane.Process
	for _, p := range []*Pod{w.A, w.B} {
		proc, err := plane.StartProcess(t.Context(), plane.Program{
			Name: enforcer + " of " + p.Node.Name(), LogFile: w.Rig.Path(enforcer + "-" + p.Node.Name() + ".log"),
			Path: w.Rig.Plane().Program(enforcer), Enter: p.Node.Enter,
			Args: []string{"--kubeconfig=" + config, "--hostname-override=" + p.Node.Name(), "--disable-nri", "--v=2"},
		})
		if err != nil {
			t.Fatal(err)
		}
		running = append(running, proc)
	}
	return func() {
		done := make(chan error)
		for _, proc := range running { // each takes five seconds
			go func() { done <- errors.Join(proc.Err(), proc.Stop()) }()
		}
		for range running {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
}
