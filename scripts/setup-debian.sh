#!/usr/bin/env bash
# Installs the Debian packages that the tests use, where they are missing and
# this is root. Elsewhere it says which tests will be skipped.
set -euo pipefail

missing=()
need() { # package, what is skipped without it, and a test for its presence
    local package=$1 skipped=$2
    shift 2
    "$@" >/dev/null 2>&1 || missing+=("$package: $skipped")
}
need gcc 'nothing, but the race detector needs it' command -v gcc
need libc6-dev 'nothing, but the race detector needs it' test -e /usr/include/stdlib.h
need curl 'end-to-end tests with curl' command -v curl
need mosquitto 'tests against Mosquitto' test -x /usr/sbin/mosquitto
need mosquitto-clients 'end-to-end tests with mosquitto_pub' command -v mosquitto_pub
need rabbitmq-server 'tests against RabbitMQ' bash -c 'compgen -G "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"'
need postgresql 'tests against PostgreSQL' bash -c 'compgen -G "/usr/lib/postgresql/*/bin/initdb"'
need nodejs 'all tests of the web page' command -v node
need npm 'all tests of the web page' command -v npm
need chromium 'browser tests of the web page' test -x /usr/bin/chromium
need fonts-dejavu-core 'nothing, but its screenshots look other' test -e /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf
need fonts-noto-color-emoji 'nothing, but its screenshots look other' test -e /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf

[[ ${#missing[@]} -eq 0 ]] && exit 0

if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
    echo 'Not installed, and therefore skipped:' >&2
    printf '  %s\n' "${missing[@]}" >&2
    exit 0
fi

export DEBIAN_FRONTEND=noninteractive
# A package must not start its server here: the tests start their own. A
# policy that exists already is left alone.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]%%:*}"
