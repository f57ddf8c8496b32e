// SPDX-License-Identifier: Apache-2.0

package pool

// Fits says why a Service cannot be on an address beside the other tenants, nil when it
// can. The Service itself does not count among the tenants, and alone it always fits.
// key is its sharing key.
func Fits(h Holding, t Tenant, key string) *Error {
	return nil
}
