// SPDX-License-Identifier: Apache-2.0

package metallb

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/manifest"
	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
)

// agentNamespace is where node agents read passwords.
const agentNamespace = "fairlead-system"

// passwordKey is the key of a password in its Secret, of either load balancer.
const passwordKey = "password"

// secretRead is a Secret of the input.
type secretRead struct {
	object corev1.Secret
	used   bool
	r      *remarks
}

// secret keeps a Secret until it is known whether a peer names it.
func (c *converter) secret(o manifest.Object, r *remarks) {
	var s corev1.Secret
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Fields, &s); err != nil {
		r.lostObject([]string{"data"}, fmt.Sprintf("is not a Secret (%v)", err), "correct it in the input")
		return
	}
	if s.Namespace == "" {
		s.Namespace = c.opts.Namespace
	}
	c.secrets = append(c.secrets, secretRead{object: s, r: r})
}

// finishBGP does what needs the whole input: names, and who names whom.
func (c *converter) finishBGP() {
	if len(c.aliases) > 0 {
		c.result.Communities = append(c.result.Communities, v1alpha1.Community{
			TypeMeta: typeMeta("Community"), ObjectMeta: metav1.ObjectMeta{Name: free(oldCommunities, c.hasCommunity)},
			Spec: v1alpha1.CommunitySpec{Communities: c.aliases},
		})
	}
	c.advertiseBGP()
	c.checkCommunities()
	n := 0
	for i := range c.peers {
		p := &c.peers[i]
		for p.peer.Name == "" { // the ConfigMap's peers have none
			n++
			if name := fmt.Sprintf("peer%d", n); !c.hasPeer(name) {
				p.peer.Name = name
			}
		}
		c.password(p)
		if name := p.peer.Spec.BFDProfile; name != "" && !c.hasProfile(name) {
			p.r.lost([]string{p.profileField}, fmt.Sprintf("no BFDProfile %q is in the output: Fairlead does not use the peer until there is one (UnknownProfile)", name),
				"write the BFDProfile, or take its name out")
		}
		c.result.Peers = append(c.result.Peers, p.peer)
	}
	for i := range c.secrets {
		if !c.secrets[i].used {
			c.secrets[i].r.note("is no MetalLB configuration and is left alone", "")
		}
	}
	if len(c.result.BGPAdvertisements) > 0 && len(c.result.Peers) == 0 {
		r := &remarks{object: "BGPAdvertisement " + c.result.BGPAdvertisements[0].Name, source: sourceOutput, all: &c.result.Remarks}
		r.note("no BGPPeer is in the output: the routes are told to nobody", "create one, unless there is one already")
	}
}

// password brings the Secret of a peer over, where the input has it.
func (c *converter) password(p *peerRead) {
	ref := p.peer.Spec.PasswordSecret
	if ref == nil {
		return
	}
	from := p.secretNamespace + "/" + ref.Name
	i := slices.IndexFunc(c.secrets, func(s secretRead) bool {
		return s.object.Namespace == p.secretNamespace && s.object.Name == ref.Name
	})
	const where = "node agents read Secrets of namespace " + agentNamespace + " only"
	if i < 0 {
		p.r.lost(p.secretFields, fmt.Sprintf("the Secret %s is not in the input, and %s", from, where), fmt.Sprintf(
			"kubectl -n %[1]s create secret generic %[2]s --type=%[4]s --from-literal=%[5]s=\"$(kubectl -n %[3]s get secret %[2]s -o go-template='{{.data.%[5]s | base64decode}}')\"",
			agentNamespace, ref.Name, p.secretNamespace, corev1.SecretTypeBasicAuth, passwordKey))
		return
	}
	s := &c.secrets[i]
	in := &s.object
	switch {
	case in.Type != corev1.SecretTypeBasicAuth:
		p.r.lost(p.secretFields, fmt.Sprintf("the Secret %s is of type %q: neither MetalLB nor Fairlead reads it", from, in.Type), "make one of type "+string(corev1.SecretTypeBasicAuth))
	case len(in.Data[passwordKey]) == 0 && in.StringData[passwordKey] == "":
		p.r.lost(p.secretFields, fmt.Sprintf("the Secret %s has no %s", from, passwordKey), "correct it in the input")
	default:
		p.r.add(Remark{Fields: p.secretFields, Why: fmt.Sprintf("the Secret %s is written for namespace %s, because %s", from, agentNamespace, where)})
		if !s.used {
			c.result.Secrets = append(c.result.Secrets, corev1.Secret{
				TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
				ObjectMeta: metav1.ObjectMeta{Name: in.Name, Namespace: agentNamespace, Labels: in.Labels},
				Type:       in.Type, Data: in.Data, StringData: in.StringData, Immutable: in.Immutable,
			})
		}
	}
	s.used = true
}

// checkCommunities names words that nobody knows, and names that have two values.
func (c *converter) checkCommunities() {
	objects := make([]*v1alpha1.Community, 0, len(c.result.Communities))
	for i := range c.result.Communities {
		objects = append(objects, &c.result.Communities[i])
	}
	aliases, faults := convert.Aliases(objects)
	for _, f := range faults {
		r := &remarks{object: "Community", source: sourceOutput, all: &c.result.Remarks}
		r.add(Remark{Lost: true, Fields: []string{"spec.communities"}, Why: f.Message, Remedy: "correct it in the output"})
	}
	for _, w := range c.words {
		if _, err := loadbalancer.ParseCommunity(w.word, aliases); err != nil {
			w.r.lost([]string{w.field}, err.Error()+"; Fairlead does not use an advertisement with such a word (UnknownCommunity)",
				"correct it, or write the Community that names it")
		}
	}
}
