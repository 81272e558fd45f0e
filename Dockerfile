FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o /meterhouse ./cmd/meterhouse

# Static, no shell, not root. Time zones are embedded; CA certificates come with the image.
FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /meterhouse /meterhouse
ENTRYPOINT ["/meterhouse"]
