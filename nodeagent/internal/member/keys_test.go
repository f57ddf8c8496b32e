// SPDX-License-Identifier: Apache-2.0

//go:build !kernel

package member

import (
	"bytes"
	"encoding/base64"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/memberlist"
)

func key(b byte) []byte { return bytes.Repeat([]byte{b}, keySize) }

func line(k []byte) string { return base64.StdEncoding.EncodeToString(k) + "\n" }

func TestParseKeys(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		in   string
		want [][]byte
		err  string
	}{
		"one":           {in: line(key(1)), want: [][]byte{key(1)}},
		"primary first": {in: line(key(2)) + "\n" + line(key(1)), want: [][]byte{key(2), key(1)}},
		"no end":        {in: strings.TrimSpace(line(key(1))), want: [][]byte{key(1)}},
		"empty":         {in: "\n \n", err: "no gossip key yet"},
		"not base64":    {in: line(key(1)) + "???", err: "line 2: not base64"},
		"short":         {in: line(key(1)[:16]), err: "line 1: 16 bytes, want 32"},
		"too many":      {in: strings.Repeat(line(key(1)), 9), err: "9 gossip keys"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := parseKeys([]byte(tt.in))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil || len(got) != len(tt.want) {
				t.Fatalf("got %d keys, %v; want %d", len(got), err, len(tt.want))
			}
			for i := range got {
				if !bytes.Equal(got[i], tt.want[i]) {
					t.Errorf("key %d differs", i)
				}
			}
		})
	}
}

func TestErrorsDoNotShowKeys(t *testing.T) {
	t.Parallel()
	secret := "c2VjcmV0"
	if _, err := parseKeys([]byte(secret)); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("error is %v", err)
	}
}

func TestMissingFileIsNoKey(t *testing.T) {
	t.Parallel()
	if _, err := readKeys(filepath.Join(t.TempDir(), "keys")); !errors.Is(err, ErrNoKey) {
		t.Errorf("error is %v, want ErrNoKey", err)
	}
}

func TestRotate(t *testing.T) {
	t.Parallel()
	ring, err := memberlist.NewKeyring([][]byte{key(1)}, key(1))
	if err != nil {
		t.Fatal(err)
	}
	for _, keys := range [][][]byte{{key(1), key(2)}, {key(2), key(1)}, {key(2)}} {
		if err := rotate(ring, keys); err != nil {
			t.Fatal(err)
		}
		if got := ring.GetKeys(); len(got) != len(keys) {
			t.Errorf("ring holds %d keys, want %d", len(got), len(keys))
		}
		if !bytes.Equal(ring.GetPrimaryKey(), keys[0]) {
			t.Errorf("primary is not the first of %d keys", len(keys))
		}
	}
}
