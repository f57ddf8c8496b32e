// SPDX-License-Identifier: Apache-2.0

package client

import "k8s.io/client-go/tools/cache"

// Get reads one object from an informer's copies: nil where there is none by that key
// (namespace/name, or the name alone), or one of another type. It must not be changed.
func Get[T any](informer interface{ GetStore() cache.Store }, key string) *T {
	obj, found, err := informer.GetStore().GetByKey(key)
	if err != nil || !found {
		return nil // a cache's GetByKey never fails
	}
	t, ok := obj.(*T)
	if !ok {
		return nil
	}
	return t
}

// Indexed reads the objects with a value of an index from an informer's copies, in no
// particular order. The informer must have the index. They must not be changed.
func Indexed[T any](informer cache.SharedIndexInformer, index, value string) []*T {
	objs, err := informer.GetIndexer().ByIndex(index, value)
	if err != nil {
		return nil // only for an unknown index
	}
	out := make([]*T, 0, len(objs))
	for _, obj := range objs {
		if t, ok := obj.(*T); ok {
			out = append(out, t)
		}
	}
	return out
}
