// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
	"github.com/fairlead-lb/fairlead/provider/internal/allocation"
)

// MirrorMode says whether metallb.io objects are read.
type MirrorMode string

const (
	// MirrorAuto reads them unless a MetalLB runs.
	MirrorAuto MirrorMode = "Auto"
	// MirrorForce reads them in any case.
	MirrorForce MirrorMode = "Force"
	// MirrorOff does not read them.
	MirrorOff MirrorMode = "Off"
)

// UnmarshalJSON takes a mode. YAML reads a bare Off as the boolean false.
func (m *MirrorMode) UnmarshalJSON(data []byte) error {
	switch text := string(data); text {
	case "false":
		*m = MirrorOff
	case "true", "null":
		*m = MirrorMode(text)
	default:
		var s string
		if err := json.Unmarshal(data, &s); err != nil {
			return fmt.Errorf("metallb.mirror: %w", err)
		}
		*m = MirrorMode(s)
	}
	return nil
}

const configKind = "CloudConfig"

// Config is the --cloud-config file. Every field may be left out.
type Config struct {
	// APIVersion is fairlead.dev/v1alpha1.
	APIVersion string `json:"apiVersion"`
	// Kind is CloudConfig.
	Kind string `json:"kind"`
	// Nodes says what to do with Nodes.
	Nodes NodesConfig `json:"nodes"`
	// MetalLB says what to do with metallb.io objects.
	MetalLB MetalLBConfig `json:"metallb"`
	// Services says which Services are Fairlead's.
	Services ServicesConfig `json:"services"`
	// Cluster tells what the API does not.
	Cluster ClusterConfig `json:"cluster"`
	// DataPlane is who forwards for Services that do not say (annotation
	// fairlead.dev/data-plane): ipvs or kube-proxy. Default ipvs.
	DataPlane v1alpha1.Forwarding `json:"dataPlane"`
	// Scheduler of IPVS for Services that do not say, with flags, as the annotation
	// fairlead.dev/scheduler has it. Default rr, and wrr where weights
	// count: they are given, or targets are node ports.
	Scheduler string `json:"scheduler"`
}

// NodesConfig is about Nodes.
type NodesConfig struct {
	// Manage initialises Nodes: provider ID, addresses, and the end of the taint
	// node.cloudprovider.kubernetes.io/uninitialized. False leaves Nodes to another
	// cloud controller manager. Default true.
	Manage *bool `json:"manage"`
}

// MetalLBConfig is about metallb.io objects.
type MetalLBConfig struct {
	// Mirror is Auto, Force or Off. Default Auto.
	Mirror MirrorMode `json:"mirror"`
	// Namespace whose objects count. Default metallb-system.
	Namespace string `json:"namespace"`
}

// ServicesConfig is about Services of type LoadBalancer.
type ServicesConfig struct {
	// Class is the spec.loadBalancerClass that is served. Default fairlead.dev/lb.
	Class string `json:"class"`
	// Classless serves Services without a class too. False leaves them to another
	// load balancer. Default true.
	Classless *bool `json:"classless"`
}

// ClusterConfig is about the cluster's own addresses: no Service gets one. What Nodes
// (spec.podCIDRs) and ServiceCIDRs say counts by itself.
type ClusterConfig struct {
	// PodRanges are prefixes that pods have addresses of.
	PodRanges []string `json:"podRanges"`
	// ServiceRanges are prefixes that cluster IPs come from.
	ServiceRanges []string `json:"serviceRanges"`
}

// ReadConfig reads a --cloud-config file; "" and an empty file mean the defaults.
func ReadConfig(path string) (Config, error) {
	if path == "" {
		return ParseConfig(nil)
	}
	data, err := os.ReadFile(path) //nolint:gosec // the path is the administrator's own flag
	if err != nil {
		return Config{}, fmt.Errorf("read cloud config: %w", err)
	}
	c, err := ParseConfig(data)
	if err != nil {
		return Config{}, fmt.Errorf("cloud config %s: %w", path, err)
	}
	return c, nil
}

// ParseConfig reads the file's content strictly: an unknown or repeated field is an
// error, and all errors are reported at once, on one line.
func ParseConfig(data []byte) (Config, error) {
	var c Config
	switch n := documents(data); {
	case n == 0:
		c.setDefaults()
		return c, nil
	case n > 1:
		return Config{}, fmt.Errorf("%d YAML documents, want one", n)
	}
	text, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return Config{}, fmt.Errorf("not valid YAML: %s", strings.Join(strings.Fields(err.Error()), " "))
	}
	strict, err := kjson.UnmarshalStrict(text, &c)
	if err != nil {
		return Config{}, fmt.Errorf("not a %s: %w", configKind, err)
	}
	var faults []string
	for _, fault := range append(strict, c.validate()...) {
		faults = append(faults, fault.Error())
	}
	if len(faults) > 0 {
		return Config{}, errors.New(strings.Join(faults, "; "))
	}
	c.setDefaults()
	return c, nil
}

// documents counts the YAML documents that hold more than blank lines and comments.
// The parser reads the first and drops the others without a word.
func documents(data []byte) int {
	n, inside := 0, false
	for line := range bytes.Lines(data) {
		text, starts := strings.CutPrefix(strings.TrimRight(string(line), "\r\n"), "---")
		inside = inside && !starts
		text = strings.TrimSpace(text)
		if inside || text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		n, inside = n+1, true
	}
	return n
}

func (c *Config) validate() []error {
	var errs []error
	if want := v1alpha1.SchemeGroupVersion().String(); c.APIVersion != want {
		errs = append(errs, fmt.Errorf("apiVersion is %q, want %q", c.APIVersion, want))
	}
	if c.Kind != configKind {
		errs = append(errs, fmt.Errorf("kind is %q, want %q", c.Kind, configKind))
	}
	switch c.MetalLB.Mirror {
	case "", MirrorAuto, MirrorForce, MirrorOff:
	default:
		errs = append(errs, fmt.Errorf("metallb.mirror is %q, want %s, %s or %s", c.MetalLB.Mirror, MirrorAuto, MirrorForce, MirrorOff))
	}
	if ns := c.MetalLB.Namespace; ns != "" {
		for _, fault := range validation.IsDNS1123Label(ns) {
			errs = append(errs, fmt.Errorf("metallb.namespace is %q: %s", ns, fault))
		}
	}
	if class := c.Services.Class; class != "" {
		for _, fault := range validation.IsQualifiedName(class) {
			errs = append(errs, fmt.Errorf("services.class is %q: %s", class, fault))
		}
	}
	switch c.DataPlane {
	case "", v1alpha1.ForwardingIPVS, v1alpha1.ForwardingKubeProxy:
	default:
		errs = append(errs, fmt.Errorf("dataPlane is %q, want %s or %s", c.DataPlane, v1alpha1.ForwardingIPVS, v1alpha1.ForwardingKubeProxy))
	}
	if c.Scheduler != "" {
		if _, err := convert.ParseScheduler(c.Scheduler); err != nil {
			errs = append(errs, fmt.Errorf("scheduler: %w", err))
		}
	}
	errs = append(errs, checkRanges("cluster.podRanges", c.Cluster.PodRanges)...)
	return append(errs, checkRanges("cluster.serviceRanges", c.Cluster.ServiceRanges)...)
}

func checkRanges(field string, ranges []string) []error {
	var errs []error
	for i, text := range ranges {
		p, err := netip.ParsePrefix(text)
		if err != nil || p != p.Masked() || p.Addr().Is4In6() {
			errs = append(errs, fmt.Errorf("%s[%d] is %q, want a CIDR prefix such as 10.244.0.0/16", field, i, text))
		}
	}
	return errs
}

func (c *Config) setDefaults() {
	c.APIVersion, c.Kind = v1alpha1.SchemeGroupVersion().String(), configKind
	if c.Nodes.Manage == nil {
		manage := true
		c.Nodes.Manage = &manage
	}
	if c.MetalLB.Mirror == "" {
		c.MetalLB.Mirror = MirrorAuto
	}
	if c.MetalLB.Namespace == "" {
		c.MetalLB.Namespace = "metallb-system"
	}
	if c.Services.Class == "" {
		c.Services.Class = v1alpha1.DefaultLoadBalancerClass
	}
	if c.Services.Classless == nil {
		classless := true
		c.Services.Classless = &classless
	}
	c.DataPlane = cmp.Or(c.DataPlane, v1alpha1.ForwardingIPVS)
}

// forwarding returns what Services get that do not say; defaults must be set.
func (c *Config) forwarding() allocation.Defaults {
	out := allocation.Defaults{Forwarding: c.DataPlane}
	if scheduler, err := convert.ParseScheduler(c.Scheduler); err == nil { // validated, or empty
		out.Scheduler = scheduler
	}
	return out
}

// classes returns which Services are Fairlead's; defaults must be set.
func (c *Config) classes() convert.Classes {
	return convert.Classes{Class: c.Services.Class, Classless: *c.Services.Classless}
}

// ranges returns the cluster ranges that the file names, older than any pool.
func (c *Config) ranges() []pool.ClusterRange {
	var out []pool.ClusterRange
	for _, of := range []struct {
		field string
		kind  pool.RangeKind
		list  []string
	}{
		{"cluster.podRanges of the cloud config", pool.PodRange, c.Cluster.PodRanges},
		{"cluster.serviceRanges of the cloud config", pool.ServiceRange, c.Cluster.ServiceRanges},
	} {
		for _, text := range of.list {
			if iv, err := pool.ParseInterval(text); err == nil { // validated
				out = append(out, pool.ClusterRange{Interval: iv, Kind: of.kind, Object: of.field})
			}
		}
	}
	return out
}
