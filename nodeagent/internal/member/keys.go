// SPDX-License-Identifier: Apache-2.0

package member

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/hashicorp/memberlist"
)

// keySize is the only accepted length of a gossip key in bytes: AES-256.
const keySize = 32

// maxKeys bounds the keyring: rotation needs two.
const maxKeys = 8

// ErrNoKey says that the key file is not there yet.
var ErrNoKey = errors.New("no gossip key yet")

// parseKeys reads one base64 key of 32 bytes per line, the primary first. Empty lines
// are skipped.
func parseKeys(b []byte) ([][]byte, error) {
	var out [][]byte
	for i, line := range bytes.Split(b, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(string(line))
		if err != nil {
			return nil, fmt.Errorf("gossip key in line %d: not base64", i+1)
		}
		if len(key) != keySize {
			return nil, fmt.Errorf("gossip key in line %d: %d bytes, want %d", i+1, len(key), keySize)
		}
		out = append(out, key)
	}
	switch {
	case len(out) == 0:
		return nil, ErrNoKey
	case len(out) > maxKeys:
		return nil, fmt.Errorf("%d gossip keys, want at most %d", len(out), maxKeys)
	default:
		return out, nil
	}
}

func readKeys(path string) ([][]byte, error) {
	b, err := os.ReadFile(path) //nolint:gosec // the path is the administrator's
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoKey
	}
	if err != nil {
		return nil, fmt.Errorf("read gossip keys: %w", err)
	}
	return parseKeys(b)
}

// keyIDs are digests that tell keys apart without giving them away.
func keyIDs(keys [][]byte) []string {
	out := make([]string, 0, len(keys))
	for _, k := range keys {
		sum := sha256.Sum256(k)
		out = append(out, hex.EncodeToString(sum[:4]))
	}
	return out
}

// rotate makes ring hold exactly keys, the first as primary. New keys are added before
// the primary changes and old ones removed last, so that peers are understood throughout.
func rotate(ring *memberlist.Keyring, keys [][]byte) error {
	for _, k := range keys {
		if err := ring.AddKey(k); err != nil {
			return fmt.Errorf("add gossip key: %w", err)
		}
	}
	if err := ring.UseKey(keys[0]); err != nil {
		return fmt.Errorf("use gossip key: %w", err)
	}
	for _, old := range ring.GetKeys() {
		if slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, old) }) {
			continue
		}
		if err := ring.RemoveKey(old); err != nil {
			return fmt.Errorf("remove gossip key: %w", err)
		}
	}
	return nil
}
