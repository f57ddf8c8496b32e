// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
)

// TokenReviews asks the API server whose a token is.
type TokenReviews interface {
	Create(ctx context.Context, r *authenticationv1.TokenReview, o metav1.CreateOptions) (*authenticationv1.TokenReview, error)
}

// SubjectAccessReviews asks the API server what somebody may do.
type SubjectAccessReviews interface {
	Create(ctx context.Context, r *authorizationv1.SubjectAccessReview, o metav1.CreateOptions) (*authorizationv1.SubjectAccessReview, error)
}

const (
	// verdictLifetime is how long an answer of the API server is used.
	verdictLifetime = time.Minute
	maxVerdicts     = 256
	reviewTimeout   = 5 * time.Second
)

type verdict struct {
	status int
	until  time.Time
}

// Authorizer admits bearers of a token whose user may GET the path of the request, as
// the API server's own /metrics does it. It is safe for concurrent use.
type Authorizer struct {
	tokens TokenReviews
	access SubjectAccessReviews

	mu    sync.Mutex
	cache map[[sha256.Size]byte]verdict // guarded by mu
}

// NewAuthorizer makes an authorizer that asks these two.
func NewAuthorizer(t TokenReviews, a SubjectAccessReviews) *Authorizer {
	return &Authorizer{tokens: t, access: a, cache: make(map[[sha256.Size]byte]verdict)}
}

// Require wraps a handler: 401 without a valid token, 403 without permission, 503 when
// the API server cannot be asked.
func (a *Authorizer) Require(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status := a.check(r)
		if status != http.StatusOK {
			http.Error(w, http.StatusText(status), status)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (a *Authorizer) check(r *http.Request) int {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || token == "" {
		return http.StatusUnauthorized
	}
	key := sha256.Sum256([]byte(r.URL.Path + "\x00" + token))
	now := time.Now()
	a.mu.Lock()
	v, ok := a.cache[key]
	a.mu.Unlock()
	if ok && now.Before(v.until) {
		return v.status
	}
	status, err := a.ask(r.Context(), token, r.URL.Path)
	if err != nil {
		klog.FromContext(r.Context()).V(2).Info("Cannot check a metrics client", "cause", err.Error())
		return http.StatusServiceUnavailable
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.cache) >= maxVerdicts {
		clear(a.cache)
	}
	a.cache[key] = verdict{status: status, until: now.Add(verdictLifetime)}
	return status
}

func (a *Authorizer) ask(ctx context.Context, token, path string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	tr, err := a.tokens.Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token},
	}, metav1.CreateOptions{})
	if err != nil {
		return 0, fmt.Errorf("review token: %w", err)
	}
	if !tr.Status.Authenticated {
		return http.StatusUnauthorized, nil
	}
	extra := make(map[string]authorizationv1.ExtraValue, len(tr.Status.User.Extra))
	for k, v := range tr.Status.User.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	sar, err := a.access.Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: tr.Status.User.Username, UID: tr.Status.User.UID, Groups: tr.Status.User.Groups, Extra: extra,
		NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: path, Verb: "get"},
	}}, metav1.CreateOptions{})
	if err != nil {
		return 0, fmt.Errorf("review access: %w", err)
	}
	if !sar.Status.Allowed {
		return http.StatusForbidden, nil
	}
	return http.StatusOK, nil
}
