// SPDX-License-Identifier: Apache-2.0

// Package arch holds the tests that keep the project's shape: who may import whom and
// why, that every package says what it is for, that files stay readable, and that the
// documents agree with the code. It owns no code of the product and nothing imports it.
package arch
