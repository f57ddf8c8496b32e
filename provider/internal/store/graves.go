// SPDX-License-Identifier: Apache-2.0

package store

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// maxGraves bounds the memory: late news is late by a list or by a response, not by
// thousands of deletions.
const maxGraves = 8192

// grave is the last object of a name that is known to be deleted.
type grave struct {
	uid     types.UID
	version string
}

// graves remember deleted objects by name. Not everything arrives in order: a list or
// the response to a write may come in after an informer has told that its object is
// gone, and would raise it from the dead for as long as the process lives.
type graves struct {
	last  map[string]grave
	order []string
}

func newGraves() *graves { return &graves{last: make(map[string]grave)} }

// bury notes that an object is gone.
func (g *graves) bury(name string, o metav1.Object) {
	if _, known := g.last[name]; !known {
		g.order = append(g.order, name)
		if len(g.order) > maxGraves {
			delete(g.last, g.order[0])
			g.order = g.order[1:]
		}
	}
	g.last[name] = grave{uid: o.GetUID(), version: o.GetResourceVersion()}
}

// dead reports whether an object is known to be gone: it is the one buried last under
// its name, or is not newer than that one's end.
func (g *graves) dead(name string, o metav1.Object) bool {
	last, known := g.last[name]
	if !known {
		return false
	}
	if o.GetUID() == last.uid {
		return true
	}
	c, err := resourceversion.CompareResourceVersion(o.GetResourceVersion(), last.version)
	return err == nil && c <= 0
}
