# SPDX-License-Identifier: Apache-2.0
# Two images from one build: docker build --target controller . and --target node-agent.
# The lab builds them without Docker by running the same RUN lines on the host
# (fairlead-lab image), so keep to ARG, FROM, WORKDIR, ENV, COPY, RUN, USER, ENTRYPOINT
# and LABEL, and keep every RUN line a plain command that writes below /out only.
# A semantic version, which the cloud provider framework parses.
ARG VERSION=v0.0.0-dev

FROM golang:1.26 AS build
ARG VERSION
WORKDIR /src
COPY . .
ENV CGO_ENABLED=0
RUN go build -trimpath -tags grpcnotrace -buildvcs=false -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=${VERSION}" -o /out/fairlead-cloud-controller-manager ./cmd/fairlead-cloud-controller-manager
RUN go build -trimpath -tags grpcnotrace -buildvcs=false -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=${VERSION}" -o /out/fairlead-node-agent ./cmd/fairlead-node-agent

# The program nft with the libraries that it needs: the node agent's data plane writes
# nftables through it. Where it is installed, as on a lab's host, nothing is installed.
FROM golang:1.26 AS nft
RUN command -v nft >/dev/null || { apt-get update -q && apt-get install -qy --no-install-recommends nftables; }
RUN install -D "$(command -v nft)" /out/root/bin/nft
RUN ldd "$(command -v nft)" | grep -o '/[^ ]*' | while read -r lib; do install -D "$lib" "/out/root$lib"; done

FROM scratch AS controller
LABEL org.opencontainers.image.title="fairlead-controller" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/fairlead-cloud-controller-manager /fairlead-cloud-controller-manager
USER 65532:65532
ENTRYPOINT ["/fairlead-cloud-controller-manager"]

# User 0: raw sockets and addresses on links need NET_RAW and NET_ADMIN as effective
# capabilities, and container runtimes give added capabilities to user 0 only. Everything else is dropped by the manifest.
FROM scratch AS node-agent
LABEL org.opencontainers.image.title="fairlead-node-agent" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=nft /out/root/ /
COPY --from=build /out/fairlead-node-agent /fairlead-node-agent
ENV PATH=/bin
USER 0:0
ENTRYPOINT ["/fairlead-node-agent"]
