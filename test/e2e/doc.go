// SPDX-License-Identifier: Apache-2.0

// Package e2e shows each behaviour of Fairlead once, on a lab cluster with real
// Kubernetes components. It owns expectations about behaviour seen from outside: from the
// API, from a client on the network, from a node after an uninstall. It must not look into
// the product's packages beyond the API types; full counts belong to test/soak.
//
// The tests need root and carry the build tag e2e: `make test-e2e` calls them. One cluster
// serves the whole package; with FAIRLEAD_LAB_STATE_DIR set the tests use the cluster that
// runs there and leave it running.
package e2e
