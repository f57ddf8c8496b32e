// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// ToolFiles packs programs of this machine with the shared libraries they
// need, so that they run in an otherwise empty image. Programs that are not
// installed are left out.
func ToolFiles(ctx context.Context, programs []string) ([]File, error) {
	files := []File{
		{Path: "/etc/passwd", Data: []byte("root:x:0:0:root:/:/bin/sh\n")},
		{Path: "/etc/group", Data: []byte("root:x:0:\n")},
		{Path: "/etc/nsswitch.conf", Data: []byte("hosts: files dns\n")},
		{Path: "/tmp", Dir: true, Mode: 0o777},
	}
	for _, p := range programs {
		path, err := exec.LookPath(p)
		if errors.Is(err, exec.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("tools: %w", err)
		}
		program, err := filepath.EvalSymlinks(path)
		if err != nil {
			return nil, fmt.Errorf("tools: %w", err)
		}
		files = append(files, File{Path: "/bin/" + p, Source: program})
		libs, err := sharedLibraries(ctx, program)
		if err != nil {
			return nil, err
		}
		for _, l := range libs {
			files = append(files, File{Path: l, Source: l})
		}
	}
	return files, nil
}

// sharedLibraries asks the dynamic loader what a program needs; a static
// program needs nothing, which ldd reports as a failure.
func sharedLibraries(ctx context.Context, program string) ([]string, error) {
	out, err := exec.CommandContext(ctx, "ldd", program).CombinedOutput() //nolint:gosec // a program found on PATH
	if err != nil {
		if strings.Contains(string(out), "not a dynamic executable") || strings.Contains(string(out), "statically linked") {
			return nil, nil
		}
		return nil, fmt.Errorf("ldd %s: %w", program, err)
	}
	return parseLdd(string(out)), nil
}

func parseLdd(out string) []string {
	var libs []string
	for f := range strings.FieldsSeq(out) {
		if strings.HasPrefix(f, "/") {
			libs = append(libs, f)
		}
	}
	return libs
}
