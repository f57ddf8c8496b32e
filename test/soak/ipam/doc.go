// SPDX-License-Identifier: Apache-2.0

// Package ipam lets two cloud controller managers that both believe they lead allocate
// addresses at once, each behind a proxy that injects conflicts, timeouts, dropped
// answers, delays and resets, while Services of every kind are created, changed and
// deleted at random; then with etcd restarted and the API server paused.
//
// It owns the load, the disturbances and the checker. The checker ([Book], [Audit]) is
// independent of the product: it reads only the API's objects, at every revision, and
// knows nothing of how addresses are chosen. It must stay free of the product's packages
// except the API types. The full count is test/soak's, a short form test/e2e's.
package ipam
