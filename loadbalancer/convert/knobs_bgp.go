// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"math"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
)

const (
	// maxCommunities is how many of them a record holds.
	maxCommunities = 64
	// maxAlias is the longest name of a community, in bytes.
	maxAlias = 253
)

// readBGP reads what the Service says of its routes. Whether it may is its
// BGPAdvertisements' to say.
func (w *Wishes) readBGP(svc *corev1.Service) *pool.Error {
	var out v1alpha1.BGPOverrides
	var err *pool.Error
	if out.LocalPref, err = route32(svc, v1alpha1.AnnotationBGPLocalPref, math.MaxUint32); err != nil {
		return err
	}
	if out.MED, err = route32(svc, v1alpha1.AnnotationBGPMED, math.MaxUint32); err != nil {
		return err
	}
	times, err := route32(svc, v1alpha1.AnnotationBGPPrepend, maxPrepend)
	if err != nil {
		return err
	}
	if times != nil {
		n := int32(*times) //nolint:gosec // at most maxPrepend
		out.ASPathPrepend = &n
	}
	if out.Communities, err = communityWords(svc); err != nil {
		return err
	}
	if out.LocalPref != nil || out.MED != nil || out.ASPathPrepend != nil || len(out.Communities) > 0 {
		w.BGP = &out
	}
	return nil
}

// route32 reads a number from 0 to limit; nil where there is no such annotation.
func route32(svc *corev1.Service, key string, limit uint32) (*int64, *pool.Error) {
	value := strings.TrimSpace(svc.Annotations[key])
	if value == "" {
		return nil, nil //nolint:nilnil // nothing said, and nothing wrong
	}
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil || n > uint64(limit) || strconv.FormatUint(n, 10) != value {
		return nil, invalid(key, "%q is not a number from 0 to %d; write one", value, limit)
	}
	out := int64(n) // of 32 bits
	return &out, nil
}

// communityWords reads a list of communities, each word once and ascending. A word that is
// neither a number nor well-known may be an alias: whether there is one is not for here.
func communityWords(svc *corev1.Service) ([]string, *pool.Error) {
	const key = v1alpha1.AnnotationBGPCommunities
	value := strings.TrimSpace(svc.Annotations[key])
	if value == "" {
		return nil, nil
	}
	var out []string
	for word := range strings.SplitSeq(value, ",") {
		word = strings.TrimSpace(word)
		_, err := loadbalancer.ParseCommunity(word, nil)
		alias := word != "" && len(word) <= maxAlias && !strings.ContainsAny(word, ": \t\n")
		if err != nil && !alias {
			return nil, invalid(key, "%q is no community; write a comma separated list such as 65000:1, large:65000:1:2, no-export or an alias", word)
		}
		out = append(out, word)
	}
	slices.Sort(out)
	out = slices.Compact(out)
	if len(out) > maxCommunities {
		return nil, invalid(key, "there are %d communities, more than %d; drop some of them", len(out), maxCommunities)
	}
	return out, nil
}
