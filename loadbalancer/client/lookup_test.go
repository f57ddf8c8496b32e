// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-lb/fairlead/loadbalancer/client"
)

func TestLookup(t *testing.T) {
	t.Parallel()
	const byApp = "app"
	informer := cache.NewSharedIndexInformer(nil, &corev1.Pod{}, 0, cache.Indexers{byApp: func(obj any) ([]string, error) {
		m, ok := obj.(metav1.Object)
		if !ok {
			return nil, fmt.Errorf("unexpected object %T", obj)
		}
		return []string{m.GetLabels()[byApp]}, nil
	}})
	meta := func(name, app string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{byApp: app}}
	}
	for _, obj := range []any{
		&corev1.Pod{ObjectMeta: meta("web-1", "web")}, &corev1.Pod{ObjectMeta: meta("web-2", "web")}, &corev1.Pod{ObjectMeta: meta("dns-1", "dns")},
		&corev1.Node{ObjectMeta: meta("web-3", "web")},
	} {
		if err := informer.GetStore().Add(obj); err != nil {
			t.Fatal(err)
		}
	}
	if p := client.Get[corev1.Pod](informer, "shop/dns-1"); p == nil || p.Name != "dns-1" {
		t.Errorf("got %v", p)
	}
	for _, key := range []string{"shop/dns-2", "shop/web-3", "dns-1"} {
		if p := client.Get[corev1.Pod](informer, key); p != nil {
			t.Errorf("%s is %v", key, p)
		}
	}
	for app, want := range map[string]int{"web": 2, "dns": 1, "": 0} {
		list := client.Indexed[corev1.Pod](informer, byApp, app)
		for _, p := range list {
			if p.Labels[byApp] != app {
				t.Errorf("%s is of app %s", p.Name, app)
			}
		}
		if len(list) != want {
			t.Errorf("%d pods of app %q, want %d", len(list), app, want)
		}
	}
	if list := client.Indexed[corev1.Pod](informer, "node", "n1"); list != nil {
		t.Errorf("an index that is not there gives %v", list)
	}
}
