// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package bgp

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// TestEveryFieldIsSet finds fields of the kinds that configure BGP that no manifest here has,
// and which no row can be about.
func TestEveryFieldIsSet(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	for _, kind := range []any{v1alpha1.BGPPeerSpec{}, v1alpha1.BGPAdvertisementSpec{}, v1alpha1.BFDProfileSpec{}, v1alpha1.CommunitySpec{}, v1alpha1.NodeValue{}} {
		for f := range reflect.TypeOf(kind).Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if text := all.String(); !strings.Contains(text, name+": ") && !strings.Contains(text, `"`+name+`":`) {
				t.Errorf("%T has the field %s, which nothing here is about", kind, name)
			}
		}
	}
}
