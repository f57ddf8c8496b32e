// SPDX-License-Identifier: Apache-2.0

// Package churn kills the leading cloud controller manager again and again while Services
// come and go, and then looks whether the books are right: no address held twice, none
// leaked, every Service with what it should have. It owns the load, the kills and the
// audit. The full count is test/soak's, a short form test/e2e's.
//
// The audit ([Audit]) is a pure function of what the API server lists; it must stay free
// of commands, so that its own test can show that it finds each kind of fault.
package churn
