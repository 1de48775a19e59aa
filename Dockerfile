# docker build --build-arg VERSION="$(git describe --tags --always)" -t signalbox .
# docker run --rm -it -v signalbox:/data signalbox user add ann --role admin
# docker run -p 3101:3101 -p 1883:1883 -v signalbox:/data signalbox
#
# While nobody has to log in, Signalbox refuses to listen beyond its own machine,
# and a container's ports are beyond it: so the second line makes the first
# account. Devices then prove who they are at the broker (MQTT_AUTH). Without
# login, -e ALLOW_INSECURE=true says that the network in front of the ports is
# one to trust. See "Logging in" in docs/OPERATIONS.md.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.releaseVersion=$VERSION" -o /signalbox ./cmd/signalbox \
    && mkdir /data

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /signalbox /signalbox
COPY --from=build --chown=nonroot:nonroot /data /data
ENV DATA_DIR=/data HOST=0.0.0.0 MQTT_LISTEN=0.0.0.0:1883
VOLUME /data
EXPOSE 3101 1883
USER nonroot
ENTRYPOINT ["/signalbox"]
CMD ["serve"]
