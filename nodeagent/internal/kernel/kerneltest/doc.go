// SPDX-License-Identifier: Apache-2.0

// Package kerneltest is a kernel for tests: it keeps virtual servers, the link of the
// addresses that are forwarded, and settings in memory, as package kernel's do in the
// kernel, with the same errors. Tests make each operation fail, or end the caller's life
// after it, and do what others do: empty the table, delete the link. [Conform] holds it and
// the real one to the same rules. Only tests use it.
package kerneltest
