// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const goodDockerfile = `# comment
ARG VERSION=1.2

FROM golang:1 AS build
ARG VERSION
WORKDIR /src
COPY . .
ENV GREETING=hello
RUN mkdir -p /out/bin && \
    cp prog.txt /out/bin/prog && printf '%s %s' "$GREETING" "${VERSION}" > /out/version
RUN chmod 0755 /out/bin/prog

FROM scratch AS app
ARG VERSION
LABEL title="my app" version=${VERSION}
COPY --from=build /out/bin/prog /prog
COPY --from=build /out/version /etc/
ENV HOME=/tmp
USER 65532:65532
ENTRYPOINT ["/prog", "--serve"]
`

func entries(t *testing.T, layer []byte) map[string]string {
	t.Helper()
	out := map[string]string{}
	tr := tar.NewReader(bytes.NewReader(layer))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		out[h.Name] = h.FileInfo().Mode().String() + " " + string(b)
	}
}

func TestBuildRunsStages(t *testing.T) {
	t.Parallel()
	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "prog.txt"), []byte("PROGRAM"), 0o600); err != nil {
		t.Fatal(err)
	}
	stages, err := ParseDockerfile(strings.NewReader(goodDockerfile))
	if err != nil {
		t.Fatal(err)
	}
	b := &Builder{Context: src, Out: io.Discard}
	img, err := b.Build(t.Context(), stages, "app")
	if err != nil {
		t.Fatal(err)
	}
	got := entries(t, img.Layers[0])
	want := map[string]string{"prog": "-rwxr-xr-x PROGRAM", "etc/": "drwxr-xr-x ", "etc/version": "-rw-r--r-- hello 1.2"}
	for name, content := range want {
		if got[name] != content {
			t.Errorf("entry %s: got %q, want %q", name, got[name], content)
		}
	}
	if len(got) != len(want) {
		t.Errorf("entries: got %v, want %v", got, want)
	}
	c := img.Config
	if c.User != "65532:65532" || !slices.Equal(c.Entrypoint, []string{"/prog", "--serve"}) ||
		!slices.Equal(c.Env, []string{"HOME=/tmp"}) || c.Labels["title"] != "my app" || c.Labels["version"] != "1.2" {
		t.Errorf("configuration: %+v", c)
	}
	dir := b.done["build"]
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("Close left %s", dir)
	}
}

func TestBadDockerfiles(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ file, want string }{
		"unknown instruction": {"FROM scratch AS x\nVOLUME /data\n", "line 2: VOLUME: not supported"},
		"before FROM":         {"RUN true\n", "line 1: RUN: comes before FROM"},
		"empty":               {"# nothing\n", "no FROM"},
		"open continuation":   {"FROM scratch \\\n", "continued"},
		"bad FROM":            {"FROM a b\n", "line 1: FROM"},
		"RUN in scratch":      {"FROM scratch AS x\nRUN true\n", "line 2: RUN: cannot run in a stage from scratch"},
		"shell form":          {"FROM scratch AS x\nENTRYPOINT /prog\n", "exec form"},
		"copy from context":   {"FROM scratch AS x\nCOPY a /a\n", "COPY --from=STAGE"},
		"no such stage":       {"FROM scratch AS x\nCOPY --from=y /out/a /a\n", "no stage"},
		"outside /out":        {"FROM b AS y\nFROM scratch AS x\nCOPY --from=y /etc/passwd /a\n", "below /out"},
		"missing target":      {"FROM scratch AS other\n", `no stage "x"`},
		"base needs registry": {"FROM debian AS x\n", "without a registry"},
		"failing command":     {"FROM b AS y\nRUN echo why >&2; false\nFROM scratch AS x\nCOPY --from=y /out/a /a\n", "why"},
		"bad label":           {"FROM scratch AS x\nLABEL novalue\n", "NAME=VALUE"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &Builder{Context: t.TempDir(), Out: io.Discard}
			defer b.Close() // the error under test is another
			stages, err := ParseDockerfile(strings.NewReader(c.file))
			if err == nil {
				_, err = b.Build(t.Context(), stages, "x")
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestRelocate(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"go build -o /out/x ./cmd":      "go build -o /t/1/x ./cmd",
		"cp a /out":                     "cp a /t/1",
		`cp a "/out/b" --to=/out/c`:     `cp a "/t/1/b" --to=/t/1/c`,
		"cp /outer/a /src/out/b /out.d": "cp /outer/a /src/out/b /out.d",
	} {
		if got := relocate(in, "/t/1"); got != want {
			t.Errorf("relocate(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzParseDockerfile(f *testing.F) {
	f.Add(goodDockerfile)
	f.Add("FROM scratch AS x\nENV A=\"b c\" D=${A}\n")
	f.Fuzz(func(t *testing.T, s string) {
		stages, err := ParseDockerfile(strings.NewReader(s))
		if err == nil && len(stages) == 0 {
			t.Error("neither stages nor an error")
		}
		for i := range stages {
			sc := newScope(&stages[i])
			for j := range stages[i].Instructions {
				sc.expand(stages[i].Instructions[j].Args)
			}
		}
	})
}
