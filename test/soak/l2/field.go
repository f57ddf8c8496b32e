// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/harness"
)

const (
	// Namespace of everything that a field makes; the pool has the same name.
	Namespace = "layer2"
	// client sends the requests of every probe.
	client = "mypc"
	// controlPlaneAddress is the control plane's, where the pod runs.
	controlPlaneAddress = "172.20.0.5"
	// wholeTimeout bounds the return of a node or agent, a boot and a back-off included.
	wholeTimeout = 2 * time.Minute
	// maxServices is what the pool has room for.
	maxServices = 200
)

// manifest has the pods on the control plane, which announces nothing: requests that fail
// are then the address's, not the endpoints'.
const manifest = `apiVersion: v1
kind: Namespace
metadata: {name: layer2}
---
apiVersion: fairlead.dev/v1alpha1
kind: IPAddressPool
metadata: {name: layer2}
spec:
  addresses: [172.20.248.1-172.20.248.200, "fd00:172:20::f8:1-fd00:172:20::f8:c8"]
  serviceAllocation: {namespaces: [layer2]}
---
apiVersion: fairlead.dev/v1alpha1
kind: L2Advertisement
metadata: {name: layer2}
spec:
  ipAddressPools: [layer2]
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: layer2, labels: {app: web}}
spec:
  nodeName: control-plane
  terminationGracePeriodSeconds: 0
  containers: [{name: web, image: traefik/whoami}]
`

// Field is Services with addresses on a running lab.
type Field struct {
	lab *harness.Lab
	// Addresses of the Services, IPv4, in the order of their names.
	Addresses []string
	// Six are the same Services' IPv6 addresses, when the field is dual stack.
	Six  []string
	macs map[string]string
	// port of the first Service on every node.
	port int32
}

// Prepare makes n Services in front of one pod and waits until every address has an owner
// and the first one answers. [Field.Close] removes them.
func Prepare(ctx context.Context, lab *harness.Lab, n int, dual bool) (*Field, error) {
	if n < 1 || n > maxServices {
		return nil, fmt.Errorf("layer 2: %d Services, want 1 to %d", n, maxServices)
	}
	f := &Field{lab: lab}
	var err error
	if f.macs, err = lab.MACTable(ctx, harness.FairleadNodes()); err != nil {
		return nil, err
	}
	if _, err := lab.Apply(ctx, manifest); err != nil {
		return f, fmt.Errorf("prepare: %w", err)
	}
	if err := f.grow(ctx, n, dual); err != nil {
		return f, fmt.Errorf("prepare: %w", err)
	}
	return f, nil
}

// serviceName of the i-th Service: in the order of their numbers.
func serviceName(i int) string { return fmt.Sprintf("s%03d", i) }

// grow makes Services until there are n.
func (f *Field) grow(ctx context.Context, n int, dual bool) error {
	var b strings.Builder
	family := "ipFamilyPolicy: SingleStack"
	if dual {
		family = "ipFamilyPolicy: RequireDualStack"
	}
	for i := len(f.Addresses); i < n; i++ {
		_, _ = fmt.Fprintf(&b, "apiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: %s}\nspec: {type: LoadBalancer, "+
			"selector: {app: web}, %s, ports: [{port: 80, targetPort: 80}]}\n---\n", serviceName(i), Namespace, family)
	}
	if _, err := f.lab.Apply(ctx, b.String()); err != nil {
		return err
	}
	if _, err := harness.Eventually(ctx, time.Minute, func(ctx context.Context) error { return f.served(ctx, n, dual) }); err != nil {
		return err
	}
	if _, err := harness.Eventually(ctx, time.Minute, f.owned); err != nil {
		return err
	}
	_, err := harness.Eventually(ctx, time.Minute, f.answers)
	return err
}

// served reads the addresses of all Services.
func (f *Field) served(ctx context.Context, n int, dual bool) error {
	services, err := f.lab.Services(ctx, Namespace)
	if err != nil {
		return err
	}
	if len(services) != n {
		return fmt.Errorf("there are %d Services, want %d", len(services), n)
	}
	want := 1
	if dual {
		want = 2
	}
	var four, six []string
	f.port = services[0].Spec.Ports[0].NodePort
	for i := range services {
		got := harness.Addresses(&services[i])
		if len(got) != want {
			return fmt.Errorf("%s has %v, want %d addresses", services[i].Name, got, want)
		}
		for _, a := range got {
			if strings.Contains(a, ":") {
				six = append(six, a)
			} else {
				four = append(four, a)
			}
		}
	}
	f.Addresses, f.Six = four, six
	return nil
}

// PlainURL is the pod by the node port of its own node: no load balancer in between.
func (f *Field) PlainURL() string {
	return fmt.Sprintf("http://%s:%d/", controlPlaneAddress, f.port)
}

// owned returns nil when every address has an owner.
func (f *Field) owned(ctx context.Context) error {
	owners, err := f.Owners(ctx)
	if err == nil && len(owners) != len(f.Addresses) {
		err = fmt.Errorf("%d of %d addresses have an owner", len(owners), len(f.Addresses))
	}
	return err
}

// answers returns nil when the first Service answers on each of its addresses.
func (f *Field) answers(ctx context.Context) error {
	urls := []string{harness.URL(f.Addresses[0])}
	if len(f.Six) > 0 {
		urls = append(urls, harness.URL(f.Six[0]))
	}
	var errs []error
	for _, u := range urls {
		body, err := f.lab.Fetch(ctx, client, u)
		if err == nil && harness.Field(body, "Hostname") == "" {
			err = fmt.Errorf("unexpected answer %q", body)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Close removes everything that the field made.
func (f *Field) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wholeTimeout)
	defer cancel()
	_, err := f.lab.Kubectl(ctx, "delete", "service", "--all", "-n", Namespace, "--ignore-not-found", "--timeout=90s")
	_, derr := f.lab.KubectlIn(ctx, manifest, "delete", "-f", "-", "--ignore-not-found", "--timeout=90s")
	return errors.Join(err, derr)
}

// Owners maps the field's IPv4 addresses to the nodes that their claims name.
func (f *Field) Owners(ctx context.Context) (map[string]string, error) {
	claims, err := f.lab.Claims(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for i := range claims {
		c := &claims[i]
		if c.Status.Owner != nil && slices.Contains(f.Addresses, c.Name) {
			out[c.Name] = c.Status.Owner.Node
		}
	}
	return out, nil
}

// Owner of the first address.
func (f *Field) Owner(ctx context.Context) (string, error) {
	return f.lab.Owner(ctx, f.Addresses[0])
}

// Focus makes an address of a node the first one, which requests go to.
func (f *Field) Focus(ctx context.Context, node string) error {
	owners, err := f.Owners(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(f.Addresses, func(a string) bool { return owners[a] == node })
	if i < 0 {
		return fmt.Errorf("%s announces none of %d addresses", node, len(f.Addresses))
	}
	f.Addresses[0], f.Addresses[i] = f.Addresses[i], f.Addresses[0]
	if len(f.Six) > 0 {
		f.Six[0], f.Six[i] = f.Six[i], f.Six[0]
	}
	return nil
}

// Whole waits until every node is Ready, each agent sees all others, and says so itself:
// what the API shows may be from before an outage.
func (f *Field) Whole(ctx context.Context) error {
	nodes := harness.FairleadNodes()
	_, err := harness.Eventually(ctx, wholeTimeout, func(ctx context.Context) error {
		problems := []error{f.lab.NodesReady(ctx, len(nodes)), f.lab.AgentsReady(ctx, len(nodes))}
		for _, n := range nodes {
			_, err := f.lab.Exec(ctx, n, "curl", "-sf", "-m", "2", "-o", "/dev/null", "http://127.0.0.1:7957/readyz")
			problems = append(problems, err)
		}
		return errors.Join(problems...)
	})
	return err
}

// OneAnswer waits until each address is answered by one MAC, that of its claim's owner.
func (f *Field) OneAnswer(ctx context.Context, timeout time.Duration) error {
	addresses := f.sample()
	if len(f.Six) > 0 {
		addresses = append([]string{f.Six[0]}, addresses...)
	}
	errs := make([]error, len(addresses))
	var wg sync.WaitGroup
	for i, a := range addresses {
		wg.Go(func() {
			_, errs[i] = harness.Eventually(ctx, timeout, func(ctx context.Context) error { return f.oneAnswer(ctx, a) })
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// oneAnswer returns nil if one MAC answers for an address, that of its claim's owner.
func (f *Field) oneAnswer(ctx context.Context, address string) error {
	mac, err := f.lab.OneMAC(ctx, client, address)
	if err != nil {
		return err
	}
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return err
	}
	owner, err := f.lab.Owner(ctx, v1alpha1.ClaimName(ip))
	if err == nil && f.macs[mac] != owner {
		err = fmt.Errorf("%s (%s) answers for %s, its claim names %s", mac, f.macs[mac], address, owner)
	}
	return err
}

// sample is at most eight of the addresses: each is asked for by processes of its own.
func (f *Field) sample() []string { return f.Addresses[:min(8, len(f.Addresses))] }
