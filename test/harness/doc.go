// SPDX-License-Identifier: Apache-2.0

// Package harness drives a lab cluster the way a person does: through the commands of
// bin/fairlead-lab and nothing else. It owns running those commands, decoding what
// kubectl prints into the project's own types, waiting with a bound, measuring from a
// client, and the numbered transcript that the demo prints.
//
// It must not reach into the product's packages beyond the API types, hold expectations
// about behaviour (those belong to the demo, the e2e tests, the benchmarks and the soak
// runs, which are its callers), or change anything outside the lab it was given.
package harness
