// SPDX-License-Identifier: Apache-2.0

package provider_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/klog/v2"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
	"github.com/fairlead-lb/fairlead/provider"
	"github.com/fairlead-lb/fairlead/provider/internal/allocation"
	"github.com/fairlead-lb/fairlead/provider/internal/announcement"
	"github.com/fairlead-lb/fairlead/provider/internal/store"
	"github.com/fairlead-lb/fairlead/provider/internal/store/storetest"
)

var update = flag.Bool("update", false, "rewrite docs/reference/bad-input.md")

const (
	page    = "../docs/reference/bad-input.md"
	poolCRD = "../deploy/crds/fairlead.dev_ipaddresspools.yaml"
	// celMessage is what the API server says of addresses that the CRD refuses.
	celMessage = "must be a CIDR prefix (192.0.2.0/24) or a range of two addresses of one family (192.0.2.10-192.0.2.20)"
)

// The page is made of what the code does with each row's input; so each row is a test.
func TestBadInputPage(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString(pageHead)
	b.WriteString(poolHead)
	for _, r := range poolRows() {
		fault := faultOf(t, r)
		seen := "condition Ready"
		if r.refused {
			seen = "refused by the API server; condition Ready if a metallb.io pool says it"
		}
		row(&b, r.input, seen, fault.Reason.String(), fault.Message)
	}
	b.WriteString(advertisementHead)
	for _, r := range advertisementRows() {
		why, message := announcement.Assess(&v1alpha1.L2Advertisement{Spec: r.spec}, func(name string) bool { return name == "my-ippool" })
		row(&b, r.input, why.String(), message)
	}
	bgpPart(t, &b)
	b.WriteString(serviceHead)
	for _, r := range serviceRows() {
		event := eventOf(t, r)
		row(&b, r.input, r.outcome, event[0], event[1])
	}
	b.WriteString(configHead)
	for _, r := range configRows() {
		_, err := provider.ParseConfig([]byte(r))
		if err == nil {
			t.Fatalf("cloud config %q is fine", r)
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("cloud config %q: more than one line: %q", r, err)
		}
		row(&b, strings.ReplaceAll(strings.TrimSpace(r), "\n", "⏎"), err.Error())
	}
	if *update {
		if err := os.WriteFile(page, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b.String(), string(got)); diff != "" {
		t.Errorf("%s is not current; run this test with -update (-want +got):\n%s", page, diff)
	}
	crd, err := os.ReadFile(poolCRD)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.Join(strings.Fields(string(crd)), " "), celMessage) {
		t.Errorf("%s does not say %q", poolCRD, celMessage)
	}
}

func row(b *strings.Builder, input string, cells ...string) {
	fmt.Fprintf(b, "| `%s` |", strings.ReplaceAll(input, "|", `\|`))
	for _, c := range cells {
		b.WriteString(" " + strings.ReplaceAll(c, "|", `\|`) + " |")
	}
	b.WriteString("\n")
}

const pageHead = `# Bad input and what you see

Every row is made by a test from what the code does. Events are on the Service, once
per change; the same text is in the condition Allocated of its LoadBalancer record
(` + "`kubectl describe loadbalancers.fairlead.dev NAME`" + `). A Service that already has an
address keeps it. When the cause goes, the address comes by itself.
`

const poolHead = `
## IPAddressPool

The API server refuses what is not an address at all, with the words
` + "`" + celMessage + "`" + `.
The rest, and what comes from metallb.io pools, is told by the pool's condition Ready=False.

| Input | Where | Reason | Message |
|---|---|---|---|
`

const advertisementHead = `
## L2Advertisement

The API server refuses a weight of ` + "`preferredNodeSelectors`" + ` that is not 1 to 100. The condition Ready tells the rest. The pool is ` + "`my-ippool`" + `.

| Input | Reason | Message |
|---|---|---|
`

type advertisementRow struct {
	input string
	spec  v1alpha1.L2AdvertisementSpec
}

func advertisementRows() []advertisementRow {
	bad := metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "rack", Operator: "Near"}}}
	return []advertisementRow{
		{"nodeSelectors: [{matchExpressions: [{key: rack, operator: Near}]}]", v1alpha1.L2AdvertisementSpec{NodeSelectors: []metav1.LabelSelector{bad}}},
		{
			"preferredNodeSelectors: [{weight: 5, preference: {matchExpressions: [{key: rack, operator: Near}]}}]",
			v1alpha1.L2AdvertisementSpec{PreferredNodeSelectors: []v1alpha1.PreferredNodeSelector{{Weight: 5, Preference: bad}}},
		},
		{"ipAddressPools: [my-ippool, mine]", v1alpha1.L2AdvertisementSpec{IPAddressPools: []string{"my-ippool", "mine"}}},
	}
}

const serviceHead = `
## Service

The pools are ` + "`my-ippool`" + ` (172.20.255.200-172.20.255.201), ` + "`full`" + ` (192.0.2.1/32, taken),
` + "`careful`" + ` (198.51.100.0/24 with avoidBuggyIPs and autoAssign: false), ` + "`broken`" + ` (not valid),
` + "`closed`" + ` (203.0.113.0/28, disabled), ` + "`others`" + ` (203.0.113.16/28 for namespace shop) and ` + "`holed`" + `
(203.0.113.32/28 without 203.0.113.33, autoAssign: false). Service default/other holds
192.0.2.1, default/sharer holds 203.0.113.34 with the sharing key lan and TCP port 80,
default/gone just released 172.20.255.201, 203.0.113.35 is kept for default/kept, the
ExternalIPPolicy grants 172.20.0.0/16 and 10.0.0.0/8 to namespace default, node worker has
172.20.0.4, gateway 172.20.0.1 and pods in 10.244.1.0/24, and 172.20.255.200 where a row says
so. The Service has TCP port 80 unless a row says otherwise.

| Input | Outcome | Event | Message |
|---|---|---|---|
`

const configHead = `
## Cloud config file

The controller ends with exit status 1 and this message after ` + "`cloud config FILE:`" + `. All
errors of a file are told at once; ⏎ stands for a new line.

| Input | Message |
|---|---|
`

type poolRow struct {
	input   string
	refused bool
	spec    v1alpha1.IPAddressPoolSpec
}

func poolRows() []poolRow {
	selector := v1alpha1.IPAddressPoolSpec{Addresses: []string{"192.0.2.0/24"}, ServiceAllocation: &v1alpha1.ServiceAllocation{
		ServiceSelectors: []metav1.LabelSelector{{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: "Is"}}}},
	}}
	addresses := func(refused bool, list ...string) poolRow {
		return poolRow{"addresses: [" + strings.Join(list, ", ") + "]", refused, v1alpha1.IPAddressPoolSpec{Addresses: list}}
	}
	return []poolRow{
		addresses(true, "192.0.2.0/33"),
		addresses(true, "192.0.2.1"),
		addresses(true, "192.0.2.1-2001:db8::1"),
		addresses(true, "192.0.2.010-192.0.2.020"),
		addresses(true, "fe80::1%eth0-fe80::9%eth0"),
		addresses(false, "192.0.2.20-192.0.2.10"),
		addresses(true),
		addresses(false, "203.0.113.128/25"),
		{"serviceSelectors: [{matchExpressions: [{key: app, operator: Is}]}]", false, selector},
	}
}

// faultOf compiles a row's pool beside an older one.
func faultOf(t *testing.T, r poolRow) *pool.Error {
	t.Helper()
	older := pool.Spec{Name: "older", Addresses: []string{"203.0.113.0/24"}, Created: -1 << 62}
	bad := convert.Pool(&v1alpha1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: "bad"}, Spec: r.spec})
	bad.Created = 0
	fault := pool.Compile([]pool.Spec{older, bad}, nil).Fault("bad")
	if fault == nil {
		t.Fatalf("pool %s is fine", r.input)
	}
	return fault
}

const (
	pending = "no address"
	works   = "gets an address"
	besides = "gets its other addresses"
)

type serviceRow struct {
	input   string
	outcome string
	// nodeOwns gives 172.20.255.200 to a node.
	nodeOwns bool
	change   func(*corev1.Service)
}

func annotated(outcome string, pairs ...string) serviceRow {
	var text []string
	m := make(map[string]string)
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
		text = append(text, pairs[i]+": "+pairs[i+1])
	}
	return serviceRow{strings.Join(text, ", "), outcome, false, func(s *corev1.Service) { s.Annotations = m }}
}

func serviceRows() []serviceRow {
	owned := annotated(pending, "fairlead.dev/addresses", "172.20.255.200")
	owned.nodeOwns, owned.input = true, owned.input+" (a node's own)"
	local := annotated(pending, "fairlead.dev/addresses", "203.0.113.34", "fairlead.dev/sharing-key", "lan")
	local.input += ", externalTrafficPolicy: Local, port 81"
	share := local.change
	local.change = func(s *corev1.Service) {
		share(s)
		s.Spec.ExternalTrafficPolicy, s.Spec.Ports[0].Port = corev1.ServiceExternalTrafficPolicyLocal, 81
	}
	return []serviceRow{
		annotated(pending, "fairlead.dev/addresses", "172.20.255.2000"),
		annotated(pending, "metallb.io/loadBalancerIPs", "web.example.com"),
		annotated(pending, "fairlead.dev/addresses", "172.20.255.200,172.20.255.201"),
		annotated(pending, "fairlead.dev/addresses", "2001:db8::1"),
		annotated(pending, "fairlead.dev/addresses", "203.0.113.99"),
		annotated(pending, "fairlead.dev/addresses", "192.0.2.1"),
		annotated(pending, "fairlead.dev/addresses", "172.20.255.201"),
		annotated(pending, "fairlead.dev/addresses", "198.51.100.255"),
		owned,
		annotated(pending, "fairlead.dev/pool", "nowhere"),
		annotated(pending, "metallb.universe.tf/address-pool", "broken"),
		annotated(pending, "fairlead.dev/pool", "full"),
		annotated(pending, "fairlead.dev/pool", "careful", "fairlead.dev/addresses", "172.20.255.200"),
		annotated(pending, "fairlead.dev/target-type", "node"),
		annotated(works, "fairlead.dev/pool", "my-ippool", "metallb.io/address-pool", "full"),
		{"spec.loadBalancerIP: 172.20.255", pending, false, func(s *corev1.Service) { s.Spec.LoadBalancerIP = "172.20.255" }},
		{"fairlead.dev/addresses: 172.20.255.200, spec.loadBalancerIP: 172.20.255.201", pending, false, func(s *corev1.Service) {
			s.Annotations = map[string]string{"fairlead.dev/addresses": "172.20.255.200"}
			s.Spec.LoadBalancerIP = "172.20.255.201"
		}},
		annotated(pending, "fairlead.dev/pool", "closed"),
		annotated(pending, "fairlead.dev/pool", "others"),
		annotated(pending, "fairlead.dev/addresses", "203.0.113.33"),
		annotated(pending, "fairlead.dev/addresses", "203.0.113.35"),
		annotated(pending, "fairlead.dev/addresses", "203.0.113.34"),
		annotated(pending, "fairlead.dev/addresses", "203.0.113.34", "metallb.io/allow-shared-ip", "wan"),
		annotated(pending, "fairlead.dev/addresses", "203.0.113.34", "fairlead.dev/sharing-key", "lan"),
		local,
		annotated(pending, "fairlead.dev/sharing-key", "spec.externalIPs"),
		annotated(pending, "fairlead.dev/address-count", "9"),
		annotated(pending, "fairlead.dev/reclaim-policy", "Keep"),
		annotated(pending, "fairlead.dev/advertisements", "Not A Name"),
		annotated(pending, "fairlead.dev/data-plane", "iptables"),
		annotated(pending, "fairlead.dev/scheduler", "fastest"),
		annotated(pending, "fairlead.dev/scheduler", "rr,sh-port"),
		annotated(pending, "fairlead.dev/scheduler", "mh,sh-port"),
		annotated(pending, corev1.AnnotationLoadBalancerSourceRangesKey, "192.0.2.1"),
		annotated(pending, "fairlead.dev/bgp-local-pref", "high"),
		annotated(pending, "fairlead.dev/bgp-med", "4294967296"),
		annotated(pending, "fairlead.dev/bgp-as-path-prepend", "17"),
		annotated(pending, "fairlead.dev/bgp-communities", "65000:1 no-export"),
		{"spec.externalIPs: [203.0.113.36]", besides, false, func(s *corev1.Service) {
			s.Spec.ExternalIPs = []string{"203.0.113.36"}
		}},
		external(besides, "172.20.0.1", "a gateway's"),
		external(besides, "10.244.1.9", "a pod's"),
		external(besides, "172.20.0.4", "a node's own, where Service default/first has port 80"),
		{"ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4, IPv6]", pending, false, func(s *corev1.Service) {
			s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
		}},
	}
}

// external is a row with one address of the cluster's in spec.externalIPs.
func external(outcome, addr, whose string) serviceRow {
	return serviceRow{"spec.externalIPs: [" + addr + "] (" + whose + ")", outcome, false, func(s *corev1.Service) {
		s.Spec.ExternalIPs = []string{addr}
	}}
}

// silent is an announcer that announces nothing.
type silent struct{}

func (silent) Propose(*corev1.Service, []v1alpha1.LoadBalancerAddress) announcement.Proposal {
	return announcement.Proposal{}
}
func (silent) AllocationFailed(*corev1.Service, reason.Reason, string) {}
func (silent) AllocationSucceeded(loadbalancer.ServiceKey)             {}

func service(name string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports: []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 80}},
		},
	}
}

// eventOf gives a row's Service to an allocator and returns reason and message of the
// one Warning event.
func eventOf(t *testing.T, r serviceRow) [2]string {
	t.Helper()
	ctx, stop := context.WithCancel(klog.NewContext(t.Context(), logr.Discard()))
	defer stop()
	api := storetest.New()
	no := false
	for _, p := range []*v1alpha1.IPAddressPool{
		{ObjectMeta: metav1.ObjectMeta{Name: "my-ippool"}, Spec: v1alpha1.IPAddressPoolSpec{Addresses: []string{"172.20.255.200-172.20.255.201"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "full"}, Spec: v1alpha1.IPAddressPoolSpec{Addresses: []string{"192.0.2.1/32"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "careful"}, Spec: v1alpha1.IPAddressPoolSpec{Addresses: []string{"198.51.100.0/24"}, AutoAssign: &no, AvoidBuggyIPs: true}},
		{ObjectMeta: metav1.ObjectMeta{Name: "broken"}, Spec: v1alpha1.IPAddressPoolSpec{Addresses: []string{"192.0.2.9-192.0.2.2"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "closed"}, Spec: v1alpha1.IPAddressPoolSpec{
			Addresses: []string{"203.0.113.0/28"}, AutoAssign: &no, Disabled: true,
		}},
		{ObjectMeta: metav1.ObjectMeta{Name: "others"}, Spec: v1alpha1.IPAddressPoolSpec{
			Addresses: []string{"203.0.113.16/28"}, ServiceAllocation: &v1alpha1.ServiceAllocation{Namespaces: []string{"shop"}},
		}},
		{ObjectMeta: metav1.ObjectMeta{Name: "holed"}, Spec: v1alpha1.IPAddressPoolSpec{
			Addresses: []string{"203.0.113.32/28"}, AutoAssign: &no, ExcludedAddresses: []string{"203.0.113.33/32"},
		}},
	} {
		api.PutPool(p)
	}
	api.PutPolicy(&v1alpha1.ExternalIPPolicy{Spec: v1alpha1.ExternalIPPolicySpec{Grants: []v1alpha1.ExternalIPGrant{
		{Namespaces: []string{"default"}, Ranges: []string{"172.20.0.0/16", "10.0.0.0/8"}},
	}}})
	s := store.New(store.Options{API: api, Classes: convert.Classes{Class: v1alpha1.DefaultLoadBalancerClass, Classless: true}})
	events := record.NewFakeRecorder(10)
	alloc := allocation.New(allocation.Options{Store: s, Announcer: silent{}, Events: events, Now: time.Now})
	api.Watch(s)
	go func() { _ = s.Run(ctx) }()
	for _, holder := range []struct {
		name        string
		annotations map[string]string
	}{
		{"other", map[string]string{"fairlead.dev/addresses": "192.0.2.1"}},
		{"gone", map[string]string{"fairlead.dev/addresses": "172.20.255.201"}},
		{"sharer", map[string]string{"fairlead.dev/addresses": "203.0.113.34", "fairlead.dev/sharing-key": "lan"}},
		{"kept", map[string]string{"fairlead.dev/addresses": "203.0.113.35", "fairlead.dev/reclaim-policy": "Retain"}},
	} {
		svc := service(holder.name)
		svc.Annotations = holder.annotations
		if _, err := alloc.Ensure(ctx, svc); err != nil {
			t.Fatal(err)
		}
		<-events.Events
	}
	for _, name := range []string{"gone", "kept"} {
		ended := service(name)
		ended.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		if err := alloc.Delete(ctx, ended); err != nil {
			t.Fatal(err)
		}
	}
	observeWorker(s, r.nodeOwns)
	first := service("first")
	first.Annotations, first.Spec.ExternalIPs = map[string]string{"fairlead.dev/addresses": "203.0.113.38"}, []string{"172.20.0.4"}
	api.PutService(first)
	if _, err := alloc.Ensure(ctx, first); err != nil {
		t.Fatal(err)
	}
	svc := service("web")
	r.change(svc)
	for range 2 { // the second time tells nothing new
		_, err := alloc.Ensure(ctx, svc)
		if failed := errors.Is(err, cloudprovider.ImplementedElsewhere); failed != (r.outcome == pending) || err != nil && !failed {
			t.Fatalf("%s: Ensure: %v, want %s", r.input, err, r.outcome)
		}
	}
	return oneWarning(t, r.input, events)
}

// observeWorker tells of the node, with 172.20.255.200 if more.
func observeWorker(s *store.Store, more bool) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "worker"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.1.0/24"}}}
	for _, a := range []string{"172.20.0.4", "172.20.255.200"} {
		if a == "172.20.0.4" || more {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
		}
	}
	s.ObserveNode(n)
	s.ObserveAgent(&v1alpha1.NodeAgent{ObjectMeta: metav1.ObjectMeta{Name: "worker"}, Status: v1alpha1.NodeAgentStatus{Gateways: []string{"172.20.0.1"}}})
}

func oneWarning(t *testing.T, input string, events *record.FakeRecorder) [2]string {
	t.Helper()
	var warnings []string
	for {
		select {
		case e := <-events.Events:
			if text, ok := strings.CutPrefix(e, corev1.EventTypeWarning+" "); ok {
				warnings = append(warnings, text)
			}
			continue
		default:
		}
		break
	}
	if len(warnings) != 1 {
		t.Fatalf("%s: warnings %q, want one", input, warnings)
	}
	why, message, _ := strings.Cut(warnings[0], " ")
	return [2]string{why, message}
}

func configRows() []string {
	head := "apiVersion: fairlead.dev/v1alpha1\nkind: CloudConfig\n"
	return []string{
		"kind: CloudConfig",
		"apiVersion: v1\nkind: ConfigMap",
		head + "node: {manage: false}",
		head + "nodes: {manage: maybe}",
		head + "metallb: {mirror: Sometimes}",
		head + "metallb: {namespace: Not_A_Name}",
		head + "metallb: {mirror: Off}\nmetallb: {mirror: Auto}",
		head + "dataPlane: iptables\nscheduler: fastest",
		head + "services: {class: not a class, classless: maybe}",
		head + "services: {class: a/b/c}\ncluster: {podRanges: [10.244.0.0], serviceRanges: [10.96.0.1/12]}",
		head + "nodes: {Manage: true, color: red}\nmetallb: {mirror: on}",
		"[cloud]\nname = fairlead",
		head + "---\nnodes: {manage: false}",
	}
}
