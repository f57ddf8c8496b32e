// SPDX-License-Identifier: Apache-2.0

package metallb

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/manifest"
	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// max32 is the largest AS number and the largest local preference.
const max32 = 1<<32 - 1

// peerRead is a BGPPeer of the input, and what has to wait until all of it is read.
type peerRead struct {
	peer v1alpha1.BGPPeer
	// secret is where the input has its password; empty for none.
	secretNamespace string
	secretFields    []string
	profileField    string
	r               *remarks
}

func (c *converter) peer(o manifest.Object, r *remarks) {
	top := newFields("", o.Fields, r)
	p := v1alpha1.BGPPeer{TypeMeta: typeMeta("BGPPeer"), ObjectMeta: metadata(top)}
	refuse := func(why, remedy string) { r.lostObject(userFields(o), why, remedy) }
	spec := top.sub("spec")
	if spec == nil {
		top.finish()
		refuse("has no spec", "complete it in the input")
		return
	}
	c.readPeer(p, reader{spec, nil}, refuse)
	top.finish()
}

// readPeer reads a peer of either source. One of which a part cannot be understood is not
// carried over: half of a session would be another one.
func (c *converter) readPeer(p v1alpha1.BGPPeer, f reader, refuse func(why, remedy string)) {
	in := peerRead{peer: p, secretNamespace: c.opts.Namespace, profileField: f.path("bfdProfile"), r: f.r}
	whole := f.r.unharmed(func() {
		peerNumbers(&in.peer.Spec, f)
		peerTexts(&in.peer.Spec, f)
		if !f.words.old() {
			peerNew(&in, f)
		}
	})
	f.finish()
	spec := &in.peer.Spec
	if name := usableName(spec.BFDProfile); name != spec.BFDProfile && f.words.old() {
		f.r.add(Remark{Fields: []string{in.profileField}, Why: fmt.Sprintf("cannot be the name of an object, %q is used as for the profile itself", name)})
		spec.BFDProfile = name
	}
	switch why := wrongPeer(&in.peer); {
	case !whole:
		refuse("a part of it cannot be understood", "correct that part")
	case in.peer.Name == "" && !f.words.old():
		refuse("has no usable name", "give it one")
	case why != "":
		refuse(why, "correct it in the input")
	case in.peer.Name != "" && c.hasPeer(in.peer.Name):
		refuse(fmt.Sprintf("a BGPPeer named %q is in the input already", in.peer.Name), "remove one of the two or rename it")
	default:
		if spec.VRF != "" {
			f.r.lost([]string{f.path("vrf")}, "sessions in a VRF are not served: Fairlead refuses the peer (VRFNotSupported)",
				"if the nodes reach the router outside of the VRF, take vrf out of the output")
		}
		if spec.Password != "" {
			f.r.add(Remark{Fields: []string{f.path("password")}, Why: "stands in the output in clear text", Remedy: "keep the output to yourself, or put the password into a Secret (passwordSecret)"})
		}
		c.peers = append(c.peers, in)
	}
}

func (c *converter) hasPeer(name string) bool {
	return slices.ContainsFunc(c.peers, func(p peerRead) bool { return p.peer.Name == name })
}

// wrongPeer says why neither the API server nor the agents would take a peer; empty for none.
func wrongPeer(p *v1alpha1.BGPPeer) string {
	if p.Spec.DynamicASN != "" && p.Spec.PeerASN != 0 {
		return "has peerASN and dynamicASN"
	}
	// What a node adds (its labels, the Secret, the BFDProfile) is looked at elsewhere.
	bare := p.DeepCopy()
	bare.Spec.NodeSelectors, bare.Spec.BFDProfile = nil, ""
	in := convert.PeerInput{Peer: bare, Node: loadbalancer.Node{Name: "any"}}
	if bare.Spec.PasswordSecret != nil {
		in.Password = "read later"
	}
	_, _, faults, _ := convert.BGPSession(in)
	for _, f := range faults {
		if f.Reason != reason.VRFNotSupported.String() {
			return f.Message
		}
	}
	return ""
}

func peerNumbers(spec *v1alpha1.BGPPeerSpec, f reader) {
	spec.MyASN = f.whole("myASN", 1, max32)
	spec.PeerASN = f.whole("peerASN", 0, max32)
	spec.PeerPort = int32(f.whole("peerPort", 0, 1<<16-1)) //nolint:gosec // within bounds
	spec.HoldTime = f.duration("holdTime")
	spec.KeepaliveTime = f.duration("keepaliveTime")
}

func peerTexts(spec *v1alpha1.BGPPeerSpec, f reader) {
	spec.PeerAddress = f.text("peerAddress")
	spec.SourceAddress = f.text("sourceAddress")
	spec.RouterID = f.text("routerID")
	spec.Password = f.text("password")
	spec.BFDProfile = f.text("bfdProfile")
	spec.EBGPMultiHop = f.isTrue("ebgpMultiHop")
	spec.NodeSelectors = f.nodeSelectors()
}

// peerNew reads what the ConfigMap did not have.
func peerNew(in *peerRead, f reader) {
	spec := &in.peer.Spec
	spec.LocalASN = f.whole("localASN", 0, max32)
	spec.DynamicASN = f.text("dynamicASN")
	spec.Interface = f.text("interface")
	spec.ConnectTime = f.duration("connectTime")
	spec.EnableGracefulRestart = f.isTrue("enableGracefulRestart")
	spec.VRF = f.text("vrf")
	spec.DisableMP = f.isTrue("disableMP")
	spec.DualStackAddressFamily = f.isTrue("dualStackAddressFamily")
	secret := f.sub("passwordSecret")
	if secret == nil {
		return
	}
	name, namespace := secret.text("name"), secret.text("namespace")
	secret.finish()
	if name != "" { // MetalLB's clients write an empty one for none
		spec.PasswordSecret = &corev1.SecretReference{Name: name}
		in.secretFields = leaves(secret.at, secret.m)
	}
	if namespace != "" {
		in.secretNamespace = namespace
	}
}

// whole reads a whole number within bounds, 0 where there is none.
func (r reader) whole(field string, least, most int64) int64 {
	if n := r.bounded(field, least, most); n != nil {
		return *n
	}
	return 0
}

func (r reader) bounded(field string, least, most int64) *int64 {
	word, ok := r.words.of(field)
	if !ok {
		return nil
	}
	v, ok := r.take(word)
	if !ok {
		return nil
	}
	n, ok := v.(int64)
	if !ok || n < least || n > most {
		r.misfit(word, v, fmt.Sprintf("a whole number from %d to %d", least, most))
		return nil
	}
	return &n
}

func (r reader) bounded32(field string, least, most int64) *int32 {
	n := r.bounded(field, least, most)
	if n == nil {
		return nil
	}
	small := int32(*n) //nolint:gosec // callers' bounds are within 32 bits
	return &small
}

func (r reader) duration(field string) *metav1.Duration {
	word, ok := r.words.of(field)
	if !ok || r.m[word] == nil {
		return nil
	}
	text := r.fields.text(word)
	if text == "" {
		return nil // named already, or MetalLB's default
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		r.misfit(word, text, "a duration such as 90s")
		return nil
	}
	return &metav1.Duration{Duration: d}
}

// nodeSelectors reads selectors in the words of the source.
func (r reader) nodeSelectors() []metav1.LabelSelector {
	const field = "nodeSelectors"
	if !r.words.old() {
		return r.selectors(field)
	}
	word, _ := r.words.of(field)
	var out []metav1.LabelSelector
	for i, v := range r.list(word) {
		renamed := v
		if m, ok := v.(map[string]any); ok {
			renamed = r.words.rename(m, "matchLabels", "matchExpressions")
		}
		sel, err := selector(renamed)
		if err != nil {
			r.misfit(index(word, i), v, fmt.Sprintf("a label selector (%v)", err))
			continue
		}
		out = append(out, sel)
	}
	return out
}
