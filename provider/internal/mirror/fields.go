// SPDX-License-Identifier: Apache-2.0

package mirror

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
)

// readSpec converts a metallb.io spec to the spec of the Fairlead kind and returns, as
// spec.a.b, the paths of what it leaves out: fields that are not among those of MetalLB
// that this release reads, wherever they are. The Fairlead kind has more fields than
// MetalLB's, which a metallb.io object must not set: MetalLB would give them a meaning of
// its own one day.
func readSpec[S any](spec map[string]any, fields []string) (S, []string, error) {
	var out S
	var unread []string
	read := maps.Clone(spec)
	for name := range spec {
		if !slices.Contains(fields, name) {
			unread = append(unread, "spec."+name)
			delete(read, name)
		}
	}
	err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(read, &out, true)
	if strict, ok := runtime.AsStrictDecodingError(err); ok {
		for _, e := range strict.Errors() {
			// `unknown field "serviceAllocation.x"`
			path := strings.TrimSuffix(strings.TrimPrefix(e.Error(), `unknown field "`), `"`)
			unread = append(unread, "spec."+path)
		}
		err = nil
	}
	if err != nil {
		return out, nil, fmt.Errorf("convert spec: %w", err)
	}
	slices.Sort(unread)
	return out, unread, nil
}
