// SPDX-License-Identifier: Apache-2.0

package mirror_test

import (
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-lb/fairlead/provider/internal/mirror"
)

// A copy has every default that the API server would add, or the mirror would find a
// difference and write the copy again and again.
func TestCopiesHaveTheDefaultsOfTheDefinition(t *testing.T) {
	data, err := os.ReadFile("../../../deploy/crds/fairlead.dev_ipaddresspools.yaml")
	if err != nil {
		t.Fatal(err)
	}
	type schema struct {
		Default    any               `json:"default"`
		Properties map[string]schema `json:"properties"`
	}
	var crd struct {
		Spec struct {
			Versions []struct {
				Schema struct {
					OpenAPIV3Schema schema `json:"openAPIV3Schema"`
				} `json:"schema"`
			} `json:"versions"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(data, &crd); err != nil {
		t.Fatal(err)
	}
	fields := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"].Properties
	synctest.Test(t, func(t *testing.T) {
		b := start(t, mirror.Auto, func(*bed) {})
		b.create(t, "ipaddresspools", pool(namespace, "p", "10.0.0.0/24"))
		wait(t, time.Second)
		p, _ := b.pools.Find("p")
		spec, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&p.Spec)
		if err != nil {
			t.Fatal(err)
		}
		checked := 0
		for name, f := range fields {
			if f.Default == nil || f.Default == false && spec[name] == nil { // omitted and the same
				continue
			}
			checked++
			if diff := cmp.Diff(f.Default, spec[name]); diff != "" {
				t.Errorf("%s (-default +copy):\n%s", name, diff)
			}
		}
		if checked == 0 {
			t.Error("found no default to check")
		}
	})
}
