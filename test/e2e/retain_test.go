// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

// retained deletes and recreates a Service whose address is kept for it.
func retained(s *scenario) {
	const a, b = "172.20.249.120", "172.20.249.121"
	s.begin("retained", a+"-"+b)
	s.patchPool(`{"reclaimPolicy":"Retain","retainFor":"1h"}`)
	s.apply(s.podManifest("web1", "control-plane"))
	s.create(service{name: "web"})
	s.has("web", a)
	s.owner(a)
	s.kubectl("delete", "svc", "-n", s.name, "web")
	s.tenants(a, v1alpha1.ClaimRetained, "web")
	s.silent(a)
	s.create(
		service{name: "other", annotations: "fairlead.dev/reclaim-policy: Delete"},
		service{name: "asks", annotations: `fairlead.dev/addresses: "` + a + `"`},
	)
	s.has("other", b)
	s.refused("asks", reason.AddressRetained, s.name+"/web")
	s.create(service{name: "web"})
	s.has("web", a)
	s.rule("web", a, v1alpha1.RuleRetained)
	s.owner(a)
	s.answers(a)

	// Who deletes the retained claim by hand frees the address early.
	s.kubectl("delete", "svc", "-n", s.name, "web", "other")
	s.tenants(a, v1alpha1.ClaimRetained, "web")
	s.kubectl("delete", "ipclaim.fairlead.dev", a)
	s.has("asks", a)
	s.free(b)
}

// deadline lets the time of a retained address pass.
func deadline(s *scenario) {
	t := s.t
	const a = "172.20.249.130"
	s.begin("deadline", a+"/32")
	// Long enough for a slow machine to see the next Service refused meanwhile.
	s.patchPool(`{"retainFor":"15s"}`)
	s.create(service{name: "web", annotations: "fairlead.dev/reclaim-policy: Retain"})
	s.has("web", a)
	s.kubectl("delete", "svc", "-n", s.name, "web")
	s.tenants(a, v1alpha1.ClaimRetained, "web")
	s.create(service{name: "next"})
	s.refused("next", reason.PoolExhausted)
	took := s.has("next", a)
	t.Logf("the address was free %s later", took)
}
