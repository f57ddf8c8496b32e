// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"io"

	"github.com/fairlead-lb/fairlead/test/lab/artifacts"
)

// enforcer is the program that enforces network policies.
const enforcer = "kube-network-policies"

// Programs finds in the lab's cache, or builds, what a world needs besides its control
// plane, by name, for the plane's description: no compiler should run on an emulated processor.
func Programs(ctx context.Context, progress io.Writer) (map[string]string, error) {
	cache, err := artifacts.DefaultCache()
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it is
	}
	want := []artifacts.Target{artifacts.PolicyEnforcer()}
	for _, t := range artifacts.Targets() {
		if t.Name == proxyAccount {
			want = append(want, t)
		}
	}
	b := artifacts.Builder{Cache: cache, Log: artifacts.WriterLogger(progress)}
	return b.Ensure(ctx, want) //nolint:wrapcheck // says what it is
}
