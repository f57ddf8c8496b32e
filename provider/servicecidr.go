// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"fmt"
	"slices"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	networkinginformers "k8s.io/client-go/informers/networking/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// discoveryRetry is how long a failed question for the API server's kinds waits for the next.
const discoveryRetry = time.Second

// watchServiceCIDRs starts the informer of ServiceCIDRs if the API server has that kind
// (Kubernetes 1.33 and later); else only the configuration tells of Service ranges. It
// asks until there is an answer, and returns what the store has to wait for.
func (p *Provider) watchServiceCIDRs(ctx context.Context) ([]cache.InformerSynced, error) {
	var known bool
	err := wait.PollUntilContextCancel(ctx, discoveryRetry, true, func(ctx context.Context) (bool, error) {
		var err error
		known, err = p.hasServiceCIDRs()
		if err != nil {
			klog.FromContext(ctx).Error(err, "Asking for the API server's kinds failed, trying again")
		}
		return err == nil, nil
	})
	if err != nil {
		return nil, fmt.Errorf("ask for the API server's kinds: %w", err)
	}
	if !known {
		klog.FromContext(ctx).Info("The API server has no ServiceCIDRs, Service ranges come from the configuration only")
		return nil, nil
	}
	i := networkinginformers.NewServiceCIDRInformer(p.kube, 0, cache.Indexers{})
	synced, err := p.store.WatchServiceCIDRs(i)
	if err != nil {
		return nil, err
	}
	go i.RunWithContext(ctx)
	return []cache.InformerSynced{synced}, nil
}

func (p *Provider) hasServiceCIDRs() (bool, error) {
	list, err := p.kube.Discovery().ServerResourcesForGroupVersion(networkingv1.SchemeGroupVersion.String())
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("resources of %s: %w", networkingv1.SchemeGroupVersion, err)
	}
	return slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == "servicecidrs" }), nil
}
