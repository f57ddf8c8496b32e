// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/test/harness"
)

// The addresses of this chapter: the pool's next free one for two Services, and a pool of
// one address that is widened by a second one.
const (
	sharedAddress = "172.20.255.203"
	smallPool     = "small"
	smallFirst    = "172.20.254.1"
	smallSecond   = "172.20.254.2"
)

// demoService is a Service in front of the tutorial's web servers.
func demoService(name, annotation, port string) string {
	return "apiVersion: v1\nkind: Service\nmetadata:\n  name: " + name + "\n  annotations: {" + annotation + "}\n" +
		"spec:\n  type: LoadBalancer\n  selector: {app: webpod}\n  ports: [{port: " + port + ", targetPort: 80}]\n"
}

// addresses shows how Services come to addresses, and what one sees when there is none.
func (d *demo) addresses(ctx context.Context) {
	d.t.Heading("Addresses: sharing, why this one, why none, keeping one")
	d.t.Step(ctx, "Two Services with the same sharing key have one address, on different ports", d.share)
	d.t.Step(ctx, "Why this address?", d.why)
	d.t.Step(ctx, "A Service that gets no address says why", d.none)
	d.t.Step(ctx, "The pool is widened: the waiting Service gets its address", d.widen)
	d.t.Step(ctx, "A Service is deleted and created again: with reclaimPolicy Retain it keeps its address", d.retain)
	d.t.Step(ctx, "This chapter's Services and pool go", d.clearAddresses)
}

// show waits until a Service of the namespace default has an address.
func (d *demo) show(ctx context.Context, name, want string) (time.Duration, error) {
	return harness.Eventually(ctx, 10*time.Second, func(ctx context.Context) error {
		got, err := d.lab.Address(ctx, "default", name)
		if err == nil && got != want {
			err = fmt.Errorf("%s has %s, want %s", name, got, want)
		}
		return err
	})
}

// share creates two Services that share an address, and asks both.
func (d *demo) share(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: "shop and admin both have " + sharedAddress + "; one MAC; both answer"}
	const key = "fairlead.dev/sharing-key: storefront"
	if _, err := d.applied(ctx, demoService("shop", key, "80")+"---\n"+demoService("admin", key, "8080")); err != nil {
		return o, err
	}
	for _, name := range []string{"shop", "admin"} {
		if _, err := d.show(ctx, name, sharedAddress); err != nil {
			return o, err
		}
	}
	if _, err := d.typed(ctx, "get", "service", "shop", "admin"); err != nil {
		return o, err
	}
	var mac string
	if _, err := harness.Eventually(ctx, 10*time.Second, func(ctx context.Context) (err error) {
		mac, err = d.lab.OneMAC(ctx, "mypc", sharedAddress)
		return err
	}); err != nil {
		return o, err
	}
	for _, target := range []string{sharedAddress, sharedAddress + ":8080"} {
		res, err := d.onHost(ctx, "mypc", 1, "curl", "-s", "--max-time", "3", target)
		if err != nil {
			return o, err
		}
		if harness.Field(res.Stdout, "Hostname") == "" {
			return o, fmt.Errorf("no Hostname in the answer from %s", target)
		}
	}
	o.Observed, o.Held = fmt.Sprintf("both have %s, announced by %s (%s), both answer", sharedAddress, d.macs[mac], mac), true
	return o, nil
}

// why asks the records and the plugin for the rule that chose an address.
func (d *demo) why(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: "the record of shop says AutoAssign, the one of admin says Shared"}
	if _, err := d.typed(ctx, "get", "loadbalancers", "shop", "admin", "-o", "wide"); err != nil {
		return o, err
	}
	if err := d.explain(ctx, "admin"); err != nil {
		return o, err
	}
	var rules []string
	for _, name := range []string{"shop", "admin"} {
		rec, err := d.lab.Record(ctx, "default", name)
		if err != nil {
			return o, err
		}
		for _, a := range rec.Spec.Addresses {
			rules = append(rules, name+" "+string(a.Rule))
		}
	}
	o.Observed = strings.Join(rules, ", ")
	o.Held = o.Observed == "shop AutoAssign, admin Shared"
	return o, nil
}

// explain shows and runs the kubectl plugin's answer about one Service.
func (d *demo) explain(ctx context.Context, name string) error {
	d.t.Command("", "kubectl fairlead explain service %s", name)
	res, err := d.lab.Plugin(ctx, "", "explain", "service", name)
	d.t.Output(res.Stdout+res.Stderr, 30)
	return err
}

// none creates one Service more than a pool has addresses.
func (d *demo) none(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: "PoolExhausted, as a condition and as one event of the Service"}
	const asks = "fairlead.dev/pool: " + smallPool
	if _, err := d.applied(ctx, "apiVersion: fairlead.dev/v1alpha1\nkind: IPAddressPool\nmetadata:\n  name: "+smallPool+
		"\nspec:\n  addresses: ["+smallFirst+"/32]\n  autoAssign: false\n  reclaimPolicy: Retain\n---\n"+
		"apiVersion: fairlead.dev/v1alpha1\nkind: L2Advertisement\nmetadata:\n  name: "+smallPool+
		"\nspec:\n  ipAddressPools: ["+smallPool+"]\n"); err != nil {
		return o, err
	}
	if _, err := d.applied(ctx, demoService("early", asks, "80")); err != nil {
		return o, err
	}
	if _, err := d.show(ctx, "early", smallFirst); err != nil {
		return o, err
	}
	if _, err := d.applied(ctx, demoService("late", asks, "80")); err != nil {
		return o, err
	}
	if _, err := harness.Eventually(ctx, 10*time.Second, func(ctx context.Context) error {
		rec, err := d.lab.Record(ctx, "default", "late")
		if err != nil {
			return err
		}
		_, o.Observed = harness.Condition(rec.Status.Conditions, v1alpha1.ConditionAllocated)
		events, err := d.lab.Events(ctx, "default", "Service", "late")
		if err == nil && (o.Observed == "" || len(events) == 0) {
			err = errors.New("neither condition nor event yet")
		}
		return err
	}); err != nil {
		return o, err
	}
	if _, err := d.typed(ctx, "get", "events", "--field-selector", "involvedObject.name=late", "-o", "custom-columns=REASON:.reason,MESSAGE:.message"); err != nil {
		return o, err
	}
	o.Held = o.Observed == "PoolExhausted"
	return o, d.explain(ctx, "late")
}

// widen adds an address to the pool.
func (d *demo) widen(ctx context.Context) (harness.Observation, error) {
	const limit = 5 * time.Second // a second is usual
	o := harness.Observation{Expected: fmt.Sprintf("late has %s within %s", smallSecond, limit)}
	if _, err := d.typed(ctx, "patch", "ipaddresspools", smallPool, "--type=merge",
		"-p", `{"spec":{"addresses":["`+smallFirst+"-"+smallSecond+`"]}}`); err != nil {
		return o, err
	}
	took, err := d.show(ctx, "late", smallSecond)
	if err != nil {
		return o, err
	}
	_, err = d.typed(ctx, "get", "service", "early", "late")
	o.Observed = fmt.Sprintf("late has %s after %.1f s", smallSecond, took.Seconds())
	o.Held = took <= limit
	return o, err
}

// retain deletes both Services of the pool and creates the second one again: a pool that
// forgot would give it the first address.
func (d *demo) retain(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: "late has " + smallSecond + " again, by the rule Retained"}
	if _, err := d.typed(ctx, "delete", "service", "early", "late", "--timeout=30s"); err != nil {
		return o, err
	}
	if _, err := harness.Eventually(ctx, 10*time.Second, func(ctx context.Context) error {
		c, err := d.lab.Claim(ctx, smallSecond)
		if err == nil && c.Spec.Phase != v1alpha1.ClaimRetained {
			err = fmt.Errorf("claim %s is %s, want Retained", smallSecond, c.Spec.Phase)
		}
		return err
	}); err != nil {
		return o, err
	}
	if _, err := d.typed(ctx, "get", "ipclaims", smallFirst, smallSecond, "-o", "wide"); err != nil {
		return o, err
	}
	if _, err := d.applied(ctx, demoService("late", "fairlead.dev/pool: "+smallPool, "80")); err != nil {
		return o, err
	}
	if _, err := d.show(ctx, "late", smallSecond); err != nil {
		return o, err
	}
	rec, err := d.lab.Record(ctx, "default", "late")
	if err != nil {
		return o, err
	}
	rule := rec.Spec.Addresses[0].Rule
	o.Observed, o.Held = fmt.Sprintf("late has %s, by the rule %s", smallSecond, rule), rule == v1alpha1.RuleRetained
	return o, nil
}

// clearAddresses removes what the chapter made, retained addresses included.
func (d *demo) clearAddresses(ctx context.Context) (harness.Observation, error) {
	o := harness.Observation{Expected: "no claim of this chapter is left; a retained one goes when it is deleted"}
	if _, err := d.typed(ctx, "delete", "service", "shop", "admin", "late", "--timeout=30s"); err != nil {
		return o, err
	}
	if _, err := harness.Eventually(ctx, 10*time.Second, func(ctx context.Context) error {
		c, err := d.lab.Claim(ctx, smallSecond)
		if err == nil && c.Spec.Phase != v1alpha1.ClaimRetained {
			err = fmt.Errorf("claim %s is %s, want Retained", smallSecond, c.Spec.Phase)
		}
		return err
	}); err != nil {
		return o, err
	}
	if _, err := d.typed(ctx, "delete", "ipclaims", smallFirst, smallSecond); err != nil {
		return o, err
	}
	if _, err := d.typed(ctx, "delete", "ipaddresspools,l2advertisements", smallPool); err != nil {
		return o, err
	}
	_, err := harness.Eventually(ctx, 10*time.Second, func(ctx context.Context) error {
		claims, err := d.lab.Claims(ctx)
		if err == nil && len(claims) != len(tutorialAddresses()) {
			err = fmt.Errorf("%d claims are left, want the tutorial's %d", len(claims), len(tutorialAddresses()))
		}
		return err
	})
	o.Observed, o.Held = "only the tutorial's three claims are left", err == nil
	return o, err
}
