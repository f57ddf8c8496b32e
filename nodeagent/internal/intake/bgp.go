// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
)

// passwordKey is where a Secret has the password of a session.
const passwordKey = corev1.BasicAuthPasswordKey

// bgp are the copies that BGP is configured by. All kinds are optional.
type bgp struct {
	peers, ads, profiles, communities, secrets cache.SharedIndexInformer
	// unreadable says why Secrets are not read, nil when they are.
	unreadable func() error

	// The rest is guarded by Intake.converting.

	// seen are the objects that last was made of, with interfaces and node.
	seen       memo[any, struct{}]
	interfaces []loadbalancer.Interface
	// node is this agent's own, as it was last seen: one whose object is gone for a moment
	// keeps its sessions.
	node *corev1.Node
	made bool
	last loadbalancer.BGPConfig
}

func newBGP(c Clients, own Own) bgp {
	fl := c.Fairlead
	secrets := client.NewOptional[*corev1.SecretList](passwords{c.Secrets.Secrets(own.Namespace)}, "Secret", func() *corev1.SecretList { return &corev1.SecretList{} })
	return bgp{
		peers:       copyOf(client.NewOptional(fl.BGPPeers(), "BGPPeer", func() *v1alpha1.BGPPeerList { return &v1alpha1.BGPPeerList{} }), &v1alpha1.BGPPeer{}),
		ads:         copyOf(client.NewOptional(fl.BGPAdvertisements(), "BGPAdvertisement", func() *v1alpha1.BGPAdvertisementList { return &v1alpha1.BGPAdvertisementList{} }), &v1alpha1.BGPAdvertisement{}),
		profiles:    copyOf(client.NewOptional(fl.BFDProfiles(), "BFDProfile", func() *v1alpha1.BFDProfileList { return &v1alpha1.BFDProfileList{} }), &v1alpha1.BFDProfile{}),
		communities: copyOf(client.NewOptional(fl.Communities(), "Community", func() *v1alpha1.CommunityList { return &v1alpha1.CommunityList{} }), &v1alpha1.Community{}),
		secrets:     copyOf(secrets, &corev1.Secret{}), unreadable: secrets.Why,
	}
}

func copyOf[L runtime.Object](of *client.Optional[L], example runtime.Object) cache.SharedIndexInformer {
	return client.NewInformer(of, example, 0, cache.Indexers{})
}

func (b *bgp) informers() []cache.SharedIndexInformer {
	return []cache.SharedIndexInformer{b.peers, b.ads, b.profiles, b.communities, b.secrets}
}

// passwords lists Secrets of the type that holds passwords, no others: the agent has no
// business with those.
type passwords struct{ from corev1client.SecretInterface }

const passwordsOnly = "type=" + string(corev1.SecretTypeBasicAuth)

// List lists them.
func (p passwords) List(ctx context.Context, opts metav1.ListOptions) (*corev1.SecretList, error) {
	opts.FieldSelector = passwordsOnly
	return p.from.List(ctx, opts) //nolint:wrapcheck // the informer's own
}

// Watch watches them.
func (p passwords) Watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
	opts.FieldSelector = passwordsOnly
	return p.from.Watch(ctx, opts) //nolint:wrapcheck // the informer's own
}

// slimSecret keeps of a Secret what is read.
func slimSecret(s *corev1.Secret) {
	s.Annotations, s.Labels, s.StringData = nil, nil, nil
	password, ok := s.Data[passwordKey]
	s.Data = nil
	if ok {
		s.Data = map[string][]byte{passwordKey: password}
	}
}

// named says whether a BGPPeer names a Secret. Should the peer come later, its own event
// counts.
func (i *Intake) named(obj any) bool {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	s, ok := obj.(*corev1.Secret)
	if !ok {
		return false
	}
	for p := range each[*v1alpha1.BGPPeer](i.bgp.peers) {
		if ref := p.Spec.PasswordSecret; ref != nil && ref.Name == s.Name {
			return true
		}
	}
	return false
}

// HasBGP says whether there is any BGPPeer: without one, BGP does nothing.
func (i *Intake) HasBGP() bool { return len(i.bgp.peers.GetStore().ListKeys()) > 0 }

// BGP is what this node is told to do by BGP, where these are its interfaces. It is shared
// with later answers, as far as nothing changed, and must not be changed.
func (i *Intake) BGP(_ context.Context, interfaces []loadbalancer.Interface) loadbalancer.BGPConfig {
	i.converting.Lock()
	defer i.converting.Unlock()
	b := &i.bgp
	n := 0
	for _, inf := range b.informers() {
		for o := range each[any](inf) {
			n++
			b.seen.get(o, func(any) struct{} { return struct{}{} })
		}
	}
	if obj, ok, err := i.nodes.GetStore().GetByKey(string(i.own.Node)); err == nil && ok {
		if node, isNode := obj.(*corev1.Node); isNode {
			b.node = node
		}
	}
	if b.node != nil {
		n++
		b.seen.get(b.node, func(any) struct{} { return struct{}{} })
	}
	same := b.made && reflect.DeepEqual(interfaces, b.interfaces)
	if !b.seen.end(n) && same {
		return b.last
	}
	b.made, b.interfaces = true, interfaces
	if made := i.convertBGP(interfaces); !reflect.DeepEqual(made, b.last) {
		b.last = made
	}
	return b.last
}

func (i *Intake) convertBGP(interfaces []loadbalancer.Interface) loadbalancer.BGPConfig {
	b := &i.bgp
	out := loadbalancer.BGPConfig{Advertisements: make(map[string]loadbalancer.BGPAdvertisement)}
	out.Aliases, out.Faults = convert.Aliases(slices.Collect(each[*v1alpha1.Community](b.communities)))
	in := convert.PeerInput{Node: loadbalancer.Node{Name: i.own.Node}, Interfaces: interfaces}
	if b.node != nil {
		in.Node, in.Labels, in.Annotations = convert.Node(b.node), b.node.Labels, b.node.Annotations
	}
	for _, ad := range sorted(each[*v1alpha1.BGPAdvertisement](b.ads)) {
		made, faults := convert.BGPAdvertisement(ad, out.Aliases, in.Labels)
		out.Advertisements[ad.Name] = made
		out.Faults = append(out.Faults, faults...)
	}
	for _, p := range sorted(each[*v1alpha1.BGPPeer](b.peers)) {
		in.Peer, in.Profile = p, i.profile(p.Spec.BFDProfile)
		in.Password, in.PasswordErr = i.password(p.Spec.PasswordSecret)
		session, selected, faults, usable := convert.BGPSession(in)
		// A selector that cannot be read selects nobody, and is nobody's fault but the object's.
		if selected || !usable {
			out.Faults = append(out.Faults, faults...)
		}
		if selected && usable {
			out.Sessions = append(out.Sessions, session)
		}
	}
	return out
}

// sorted are objects by name.
func sorted[T metav1.Object](of func(yield func(T) bool)) []T {
	return slices.SortedFunc(of, func(a, b T) int { return strings.Compare(a.GetName(), b.GetName()) })
}

func (i *Intake) profile(name string) *v1alpha1.BFDProfile {
	obj, ok, err := i.bgp.profiles.GetStore().GetByKey(name)
	if err != nil || !ok {
		return nil
	}
	p, _ := obj.(*v1alpha1.BFDProfile)
	return p
}

var (
	errNoSecret   = errors.New("there is no Secret of that name and of type " + string(corev1.SecretTypeBasicAuth))
	errNoPassword = errors.New("the Secret has no key " + passwordKey)
)

// password is what a peer's Secret holds.
func (i *Intake) password(ref *corev1.SecretReference) (string, error) {
	if ref == nil {
		return "", nil
	}
	if ref.Namespace != "" && ref.Namespace != i.own.Namespace {
		return "", fmt.Errorf("it is in namespace %s; only those of %s are read", ref.Namespace, i.own.Namespace)
	}
	obj, ok, err := i.bgp.secrets.GetStore().GetByKey(i.own.Namespace + "/" + ref.Name)
	s, isSecret := obj.(*corev1.Secret)
	switch {
	case err != nil || !ok || !isSecret:
		if why := i.bgp.unreadable(); why != nil {
			return "", fmt.Errorf("the agent cannot read Secrets of namespace %s: %w", i.own.Namespace, why)
		}
		return "", fmt.Errorf("%w in namespace %s", errNoSecret, i.own.Namespace)
	case len(s.Data[passwordKey]) == 0:
		return "", errNoPassword
	}
	return string(s.Data[passwordKey]), nil
}

// onlyRead keeps the annotations of this agent's own Node that a BGPPeer may name.
func onlyRead(annotations map[string]string) map[string]string {
	out := maps.Clone(annotations)
	maps.DeleteFunc(out, func(key, _ string) bool { return !convert.NodeAnnotation(key) })
	return out
}
