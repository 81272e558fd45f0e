# One static binary in an otherwise empty image.
#
#   docker build --tag meterhouse:local .
#
# Without a network, from the modules that this machine has downloaded already (`go mod download`):
#
#   docker build --tag meterhouse:local --network=none \
#       --build-context modules="$(go env GOMODCACHE)/cache/download" .

# The build context of this name takes the place of this empty folder.
FROM scratch AS modules

FROM golang:1.26.8-bookworm AS build
# Asked for what the folder does not have. go.sum knows every module by its hash, whoever hands it over.
ARG GOPROXY=https://proxy.golang.org,direct
WORKDIR /src
COPY . .
RUN --mount=type=bind,from=modules,target=/modules \
    --mount=type=cache,target=/go/pkg/mod \
    --mount=type=cache,target=/root/.cache/go-build \
    GOPROXY="file:///modules,$GOPROXY" CGO_ENABLED=0 \
    go build -trimpath -ldflags '-s -w' -o /image/meterhouse ./cmd/meterhouse
# Time zones are in the binary; certificates are not. Big answers of a vendor wait in /tmp. A volume that
# is new at /var/lib/meterhouse becomes as that folder is here; COPY keeps the owners of what is below
# what it copies.
RUN install -D -m 644 -t /image/etc/ssl/certs /etc/ssl/certs/ca-certificates.crt && \
    install -d -m 1777 /image/tmp && \
    install -d -m 700 -o 65532 -g 65532 /image/var/lib/meterhouse

# For `docker compose up demo` only: the demo starts a Postgres of its own.
FROM postgres:17.10-bookworm AS demo
COPY --from=build /image/meterhouse /meterhouse
USER 999:999
ENTRYPOINT ["/meterhouse"]

FROM scratch
COPY --from=build /image /
USER 65532:65532
ENTRYPOINT ["/meterhouse"]
