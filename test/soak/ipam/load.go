// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/harness"
)

// namespaces of the load; the second has a grant of external addresses.
const (
	namespaceA = "soak-a"
	namespaceB = "soak-b"
)

// scenario is what the load runs on. The pool for named addresses is small, so that
// Services compete for them.
const scenario = `apiVersion: v1
kind: Namespace
metadata: {name: soak-a}
---
apiVersion: v1
kind: Namespace
metadata: {name: soak-b}
---
apiVersion: fairlead.dev/v1alpha1
kind: IPAddressPool
metadata: {name: soak}
spec: {addresses: [10.64.0.0/21, "fd00:64::/64"]}
---
apiVersion: fairlead.dev/v1alpha1
kind: IPAddressPool
metadata: {name: named}
spec: {addresses: [10.64.8.0/26], autoAssign: false}
---
apiVersion: fairlead.dev/v1alpha1
kind: IPAddressPool
metadata: {name: kept}
spec: {addresses: [10.64.9.0/24], autoAssign: false, reclaimPolicy: Retain, retainFor: 15s}
---
apiVersion: fairlead.dev/v1alpha1
kind: IPAddressPool
metadata: {name: external}
spec: {addresses: [10.64.10.0/27], autoAssign: false}
---
apiVersion: fairlead.dev/v1alpha1
kind: ExternalIPPolicy
metadata: {name: default}
spec: {grants: [{namespaces: [soak-b], ranges: [10.64.10.0/27]}]}
`

// Kinds of Services, by name; each may be left out of a run.
func Kinds() []string {
	return []string{"plain", "classed", "dual", "count", "named", "shared", "kept", "external"}
}

// load creates, changes and deletes Services.
type load struct {
	client kubernetes.Interface
	rng    *rand.Rand
	kinds  []string
	serial int
	live   []*corev1.Service
	// gone are names of Services with kept addresses that may come back.
	gone []*corev1.Service

	Created, Changed, Deleted, Returned int
	ByKind                              map[string]int
}

func newLoad(client kubernetes.Interface, seed uint64, kinds []string) *load {
	return &load{
		client: client, rng: rand.New(rand.NewPCG(seed, 2)), kinds: kinds, ByKind: map[string]int{}, //nolint:gosec // chance, not secrecy
	}
}

// run goes on until so many Services were created, with at most atOnce living at one
// time, one step per pace.
func (l *load) run(ctx context.Context, services, atOnce int, pace time.Duration) error {
	for target := l.Created + services; l.Created < target; {
		if err := l.step(ctx, atOnce); err != nil {
			return err
		}
		if err := harness.Pause(ctx, time.Duration(l.rng.Int64N(int64(2*pace)))); err != nil {
			return err
		}
	}
	return nil
}

func (l *load) step(ctx context.Context, atOnce int) error {
	dice := l.rng.Float64()
	switch {
	case len(l.live) < 4 || (dice < 0.6 && len(l.live) < atOnce):
		return l.create(ctx)
	case dice < 0.75:
		return l.change(ctx)
	default:
		return l.remove(ctx, l.rng.IntN(len(l.live)))
	}
}

// attempts bounds the load's own retries while the API server is away.
const attempts = 60

// retry repeats one request of the load until the API server answers it: the load's own
// client has no proxy, but the server may be paused or without its store.
func retry(ctx context.Context, what string, f func() error) error {
	var err error
	for range attempts {
		if err = f(); err == nil {
			return nil
		}
		// "Invalid" is also what a Service gets whose cluster address could not be stored.
		if apierrors.IsForbidden(err) {
			break
		}
		if perr := harness.Pause(ctx, time.Second); perr != nil {
			return perr
		}
	}
	return fmt.Errorf("%s: %w", what, err)
}

func (l *load) create(ctx context.Context) error {
	svc := l.next()
	err := retry(ctx, "create "+svc.Name, func() error {
		_, err := l.client.CoreV1().Services(svc.Namespace).Create(ctx, svc, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) { // the answer to an earlier attempt was lost, or its namesake still goes
			return l.mine(ctx, svc)
		}
		return err
	})
	if err != nil {
		return err
	}
	l.live = append(l.live, svc)
	l.Created++
	l.ByKind[svc.Labels["kind"]]++
	return nil
}

// mine says whether the Service that exists is the one that the load wants to create.
func (l *load) mine(ctx context.Context, svc *corev1.Service) error {
	got, err := l.client.CoreV1().Services(svc.Namespace).Get(ctx, svc.Name, metav1.GetOptions{})
	if err == nil && (got.DeletionTimestamp != nil || got.Labels["serial"] != svc.Labels["serial"]) {
		err = errors.New("its namesake still exists")
	}
	return err
}

// next makes up a Service that was never there before, or brings one back by name.
func (l *load) next() *corev1.Service {
	l.serial++
	kind := l.kinds[l.rng.IntN(len(l.kinds))]
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("s%05d", l.serial), Namespace: l.pick(namespaceA, namespaceB), Annotations: map[string]string{},
			Labels: map[string]string{"kind": kind, "serial": strconv.Itoa(l.serial)},
		},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, Selector: map[string]string{"app": "none"},
			Ports:                         []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
			AllocateLoadBalancerNodePorts: new(bool),
		},
	}
	if kind == "kept" && len(l.gone) > 0 && l.rng.IntN(2) == 0 {
		back := l.gone[0]
		l.gone = l.gone[1:]
		svc.Name, svc.Namespace = back.Name, back.Namespace
		l.Returned++
	}
	l.dress(kind, svc)
	return svc
}

// dress gives a Service what makes its kind.
func (l *load) dress(kind string, svc *corev1.Service) {
	native := v1alpha1.PrefixFairlead
	switch kind {
	case "classed":
		class := v1alpha1.DefaultLoadBalancerClass
		svc.Spec.LoadBalancerClass = &class
	case "dual":
		policy := corev1.IPFamilyPolicyRequireDualStack
		if l.rng.IntN(2) == 0 {
			policy = corev1.IPFamilyPolicyPreferDualStack
		}
		svc.Spec.IPFamilyPolicy = &policy
	case "count":
		svc.Annotations[v1alpha1.AnnotationAddressCount] = strconv.Itoa(2 + l.rng.IntN(3))
	case "named":
		svc.Annotations[native+v1alpha1.KnobAddresses] = l.named()
	case "shared":
		svc.Annotations[native+v1alpha1.KnobSharingKey] = l.key()
		svc.Spec.Ports[0].Port = l.port()
		if l.rng.IntN(4) == 0 {
			class := v1alpha1.DefaultLoadBalancerClass
			svc.Spec.LoadBalancerClass = &class
		}
	case "kept":
		svc.Annotations[native+v1alpha1.KnobPool] = "kept"
	case "external":
		svc.Namespace = namespaceB
		svc.Spec.Type, svc.Spec.AllocateLoadBalancerNodePorts = corev1.ServiceTypeClusterIP, nil
		svc.Spec.ExternalIPs = []string{fmt.Sprintf("10.64.10.%d", l.rng.IntN(32))}
		svc.Spec.Ports[0].Port = int32(1000 + l.serial) //nolint:gosec // a few thousand
	}
}

func (l *load) pick(a, b string) string {
	if l.rng.IntN(2) == 0 {
		return a
	}
	return b
}

func (l *load) named() string { return fmt.Sprintf("10.64.8.%d", l.rng.IntN(64)) }
func (l *load) key() string   { return fmt.Sprintf("key-%d", l.rng.IntN(6)) }
func (l *load) port() int32   { return int32(80 + l.rng.IntN(20)) } //nolint:gosec // below 100

// change turns one living Service into something else of its kind.
func (l *load) change(ctx context.Context) error {
	i := l.rng.IntN(len(l.live))
	svc := l.live[i]
	var edit func(*corev1.Service)
	switch svc.Labels["kind"] {
	case "named":
		addr := l.named()
		edit = func(s *corev1.Service) { s.Annotations[v1alpha1.PrefixFairlead+v1alpha1.KnobAddresses] = addr }
	case "shared":
		key, port := l.key(), l.port()
		edit = func(s *corev1.Service) {
			s.Annotations[v1alpha1.PrefixFairlead+v1alpha1.KnobSharingKey] = key
			s.Spec.Ports[0].Port = port
		}
	case "plain", "dual":
		single, prefer := corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack
		up := l.rng.IntN(2) == 0
		edit = func(s *corev1.Service) {
			if up {
				s.Spec.IPFamilyPolicy = &prefer
				return
			}
			s.Spec.IPFamilyPolicy = &single
			s.Spec.IPFamilies, s.Spec.ClusterIPs = s.Spec.IPFamilies[:1], s.Spec.ClusterIPs[:1]
		}
	default:
		port := l.port()
		edit = func(s *corev1.Service) { s.Spec.Ports[0].Port = port }
		if svc.Labels["kind"] == "external" {
			return nil // its port is its own, so that Services on one address do not clash
		}
	}
	l.Changed++
	return retry(ctx, "change "+svc.Name, func() error {
		got, err := l.client.CoreV1().Services(svc.Namespace).Get(ctx, svc.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if got.Annotations == nil {
			got.Annotations = map[string]string{}
		}
		edit(got)
		_, err = l.client.CoreV1().Services(svc.Namespace).Update(ctx, got, metav1.UpdateOptions{})
		return err
	})
}

// remove deletes one living Service and does not wait for it to go.
func (l *load) remove(ctx context.Context, i int) error {
	svc := l.live[i]
	err := retry(ctx, "delete "+svc.Name, func() error {
		err := l.client.CoreV1().Services(svc.Namespace).Delete(ctx, svc.Name, metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	l.live[i] = l.live[len(l.live)-1]
	l.live = l.live[:len(l.live)-1]
	l.Deleted++
	if svc.Labels["kind"] == "kept" {
		l.gone = append(l.gone, svc)
	}
	return nil
}

// removeAll deletes every living Service.
func (l *load) removeAll(ctx context.Context) error {
	for len(l.live) > 0 {
		if err := l.remove(ctx, len(l.live)-1); err != nil {
			return err
		}
	}
	l.gone = nil
	return nil
}
