// SPDX-License-Identifier: Apache-2.0

package metallb

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/manifest"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// Options of a migration.
type Options struct {
	// Namespace is the one that MetalLB reads: objects of others are named, not carried.
	Namespace string
	// Claims: make claims for the addresses that Services show.
	Claims bool
	// RetainUntil and RetainFor are the deadline of those claims and the time until it.
	RetainUntil metav1.Time
	RetainFor   time.Duration
}

// Result is a configuration carried over. All of it is in a stable order that depends
// on the objects' names only.
type Result struct {
	Pools          []v1alpha1.IPAddressPool
	Advertisements []v1alpha1.L2Advertisement
	Profiles       []v1alpha1.BFDProfile
	Communities    []v1alpha1.Community
	// Secrets with passwords of peers, for the namespace in which node agents read them.
	Secrets           []corev1.Secret
	Peers             []v1alpha1.BGPPeer
	BGPAdvertisements []v1alpha1.BGPAdvertisement
	Claims            []v1alpha1.IPClaim
	// Services that carry MetalLB's annotations.
	Services []AnnotatedService
	Remarks  []Remark
}

const (
	groupMetalLB = "metallb.io"

	// legacyName is the name and the key of the ConfigMap that MetalLB read before 0.13.
	legacyName = "config"

	// groupFRR is that of FRR-K8s, which MetalLB may have speak BGP for it.
	groupFRR = "frrk8s.metallb.io"

	// sourceOutput is the source of remarks on the output as a whole.
	sourceOutput = "output"

	poolRenamed = "in Services that ask for pool %q write the new name"
	frrRemedy   = "see whether fields of BGPPeer and BGPAdvertisement say the same, or configure it on the router"
)

// converter collects the result.
type converter struct {
	opts     Options
	result   Result
	services []service
	// Pools of the old kinds, by how they are announced.
	layer2 []oldPool
	bgp    []bgpPool
	// peers and secrets of the input: which Secrets are passwords is known at the end.
	peers   []peerRead
	secrets []secretRead
	// aliases are the ConfigMap's names of communities.
	aliases []v1alpha1.CommunityAlias
	// words are those of each BGPAdvertisement of the output, to look up at the end.
	words []wordRead
}

// Convert carries a configuration over. Objects that are none of MetalLB's are named
// and otherwise left alone.
func Convert(objects []manifest.Object, opts Options) Result {
	c := &converter{opts: opts}
	for _, o := range objects {
		c.object(o)
	}
	c.advertise()
	c.finishBGP()
	c.checkPools()
	c.keepAddresses()
	r := c.result
	sortByName(r.Pools, func(p *v1alpha1.IPAddressPool) string { return p.Name })
	sortByName(r.Advertisements, func(a *v1alpha1.L2Advertisement) string { return a.Name })
	sortByName(r.Profiles, func(p *v1alpha1.BFDProfile) string { return p.Name })
	sortByName(r.Communities, func(c *v1alpha1.Community) string { return c.Name })
	sortByName(r.Secrets, func(s *corev1.Secret) string { return s.Name })
	sortByName(r.Peers, func(p *v1alpha1.BGPPeer) string { return p.Name })
	sortByName(r.BGPAdvertisements, func(a *v1alpha1.BGPAdvertisement) string { return a.Name })
	slices.SortStableFunc(r.Services, func(a, b AnnotatedService) int { return cmp.Compare(a.Service, b.Service) })
	slices.SortStableFunc(r.Remarks, func(a, b Remark) int {
		return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Source, b.Source))
	})
	return r
}

func sortByName[T any](in []T, name func(*T) string) {
	slices.SortStableFunc(in, func(a, b T) int { return cmp.Compare(name(&a), name(&b)) })
}

func (c *converter) remarksOn(o manifest.Object) *remarks {
	kind, name := o.Kind(), o.Name()
	if ns := o.Namespace(); ns != "" {
		name = ns + "/" + name
	}
	if kind == "" {
		kind, name = "object", "without kind"
	}
	return &remarks{object: strings.TrimSpace(kind + " " + name), source: o.Source, all: &c.result.Remarks}
}

func (c *converter) object(o manifest.Object) {
	r := c.remarksOn(o)
	group, version, _ := strings.Cut(o.APIVersion(), "/")
	switch {
	case group == groupMetalLB:
		c.metallbObject(o, version, r)
	case o.APIVersion() == "v1" && o.Kind() == "ConfigMap":
		c.configMap(o, r)
	case o.APIVersion() == "v1" && o.Kind() == "Service":
		c.service(o, r)
	case o.APIVersion() == "v1" && o.Kind() == "Secret":
		c.secret(o, r)
	case group == groupFRR && o.Kind() == "FRRConfiguration":
		r.lostObject(userFields(o), "configures FRR, which Fairlead does not run", frrRemedy)
	case o.Kind() == "" && isLegacy(o.Fields):
		r.object = "MetalLB configuration"
		c.legacy(newFields("", o.Fields, r), r)
	case o.Kind() == "":
		r.lostObject(leaves("", o.Fields), "has no kind and is no MetalLB configuration", "check the file")
	case group == v1alpha1.GroupName:
		r.note("is Fairlead's already and is left alone", "")
	default:
		r.note("is no MetalLB configuration and is left alone", "")
	}
}

func (c *converter) metallbObject(o manifest.Object, version string, r *remarks) {
	if ns := o.Namespace(); ns != "" && ns != c.opts.Namespace {
		r.lostObject(userFields(o), fmt.Sprintf("lies outside of namespace %s, so MetalLB does not read it", c.opts.Namespace),
			"leave it, or name its namespace with --namespace if MetalLB runs there")
		return
	}
	kind := o.Kind()
	known := map[string][]string{
		"IPAddressPool": {"v1beta1"}, "L2Advertisement": {"v1beta1"}, "AddressPool": {"v1alpha1", "v1beta1"},
		"BGPPeer": {"v1beta1", "v1beta2"}, "BGPAdvertisement": {"v1beta1"}, "BFDProfile": {"v1beta1"}, "Community": {"v1beta1"},
		"ServiceL2Status": {"v1beta1"}, "ServiceBGPStatus": {"v1beta1"}, "ConfigurationState": {"v1beta1"},
	}
	if !slices.Contains(known[kind], version) {
		r.lostObject(userFields(o), fmt.Sprintf("is of kind %s %s, which this version does not know", kind, o.APIVersion()),
			"look for its meaning in MetalLB's documents")
		return
	}
	read := map[string]func(manifest.Object, *remarks){
		"IPAddressPool": c.pool, "L2Advertisement": c.advertisement, "AddressPool": c.addressPool,
		"BGPPeer": c.peer, "BGPAdvertisement": c.bgpAdvertisement, "BFDProfile": c.profile, "Community": c.community,
	}[kind]
	if read == nil {
		r.note("is a status that MetalLB writes, there is nothing to carry over", "")
		return
	}
	read(o, r)
}

// userFields returns the leaves that a user wrote.
func userFields(o manifest.Object) []string {
	var out []string
	for _, path := range leaves("", o.Fields) {
		if !strings.HasPrefix(path, "status.") && !strings.HasPrefix(path, "metadata.") && path != "apiVersion" && path != "kind" && path != "status" {
			out = append(out, path)
		}
	}
	return out
}

// metadata carries name, labels (which selectors match) and annotations over. Fairlead's
// kinds have no namespace.
func metadata(top *fields) metav1.ObjectMeta {
	var out metav1.ObjectMeta
	top.ignore("apiVersion", "kind", "status")
	meta := top.sub("metadata")
	if meta == nil {
		return out
	}
	meta.ignore("namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink")
	out.Name = objectName(meta, poolRenamed)
	out.Labels = meta.textMap("labels")
	if annotations := meta.sub("annotations"); annotations != nil {
		annotations.ignore("kubectl.kubernetes.io/last-applied-configuration")
		const why = "ties the object to the tool that made it"
		const remedy = "let that tool make the new object"
		for _, key := range []string{"meta.helm.sh/release-name", "meta.helm.sh/release-namespace", "argocd.argoproj.io/tracking-id"} {
			annotations.part(key, why, remedy)
		}
		out.Annotations = annotations.rest()
	}
	meta.part("ownerReferences", "names an owner that knows nothing of the new object", "let the owner make the new object")
	meta.part("finalizers", "names a controller that knows nothing of the new object", "leave it out")
	meta.finish()
	return out
}

// rest takes whatever is left, as texts.
func (f *fields) rest() map[string]string {
	out := make(map[string]string)
	for k := range f.m {
		if !f.left[k] {
			continue
		}
		v, ok := f.take(k)
		if s, isText := v.(string); isText {
			out[k] = s
		} else if ok {
			f.misfit(k, v, "a text")
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// objectName makes an object name of the text under name, which a legacy pool's could
// be anything.
func objectName(f *fields, remedy string) string {
	name := f.text("name")
	out := usableName(name)
	if out == name {
		return name
	}
	why := fmt.Sprintf("%q cannot be the name of an object, %q is used", name, out)
	if out == "" {
		why = fmt.Sprintf("%q cannot be the name of an object", name)
	}
	if strings.Contains(remedy, "%") {
		remedy = fmt.Sprintf(remedy, name)
	}
	f.r.lost([]string{join(f.at, "name")}, why, remedy)
	return out
}

// usableName is the name of an object as like a name as can be, or empty.
func usableName(name string) string {
	if name == "" || len(validation.IsDNS1123Subdomain(name)) == 0 {
		return name
	}
	out := strings.Trim(strings.Map(func(ch rune) rune {
		switch {
		case ch >= 'a' && ch <= 'z', ch >= '0' && ch <= '9', ch == '.':
			return ch
		case ch >= 'A' && ch <= 'Z':
			return ch + 'a' - 'A'
		default:
			return '-'
		}
	}, name), "-.")
	if len(validation.IsDNS1123Subdomain(out)) > 0 {
		return ""
	}
	return out
}
