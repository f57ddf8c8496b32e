// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

func TestForwardingReport(t *testing.T) {
	t.Parallel()
	const out = `==> fairlead-vm: this machine's kernel, Linux 6, cannot run them: they run in a SMALL VIRTUAL MACHINE
[  8.7 s] 3 agents see each other
[210.2 s] nftables: kube-proxy restarted: broken in 13.8s, whole 1.3s later; 824 questions, 0 failed
    repair_test.go:85: what is kube-proxy's has changed:
    main_test.go:32: the end of n001.log:
            --- PASS: TestDataPlane/nftables/matrix/rows (0.58s)
                --- PASS: TestDataPlane/nftables/matrix/rows/cluster-pod-4/TCP (0.92s)
                --- FAIL: TestDataPlane/ipvs/matrix/rows/cluster-pod-6/UDP (0.92s)
        --- PASS: TestDataPlane/nftables/matrix (0.58s)
        --- PASS: TestDataPlane/ipvs/features (0.58s)
            --- PASS: TestDataPlane/ipvs/features/sctp (0.58s)
        --- FAIL: TestDataPlane/nftables/repair (0.58s)
            --- FAIL: TestDataPlane/nftables/repair/table-deleted (0.58s)
`
	var r forwardingReport
	if err := r.read(strings.NewReader(out)); err != nil {
		t.Fatal(err)
	}
	got := r.markdown()
	for _, want := range []string{"| nftables | 1 | 0 |", "| ipvs | 0 | 1 |", "- nftables: kube-proxy restarted: broken in 13.8s", "SMALL VIRTUAL MACHINE", "| sctp | passed | - |", "| repair | - | FAILED |"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if len(r.parts) != 2 {
		t.Errorf("parts %q", r.parts)
	}
	if len(r.faults) != 1 || len(r.said) != 1 {
		t.Errorf("faults %q, said %q", r.faults, r.said)
	}
}
