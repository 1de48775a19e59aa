#!/usr/bin/env bash
# Starts bin/signalbox with a simulated fleet in a directory of its own, prints
# what to open and type, and stops both on Ctrl-C.
#   DEVICES, RATE   size of the fleet and its lines per second and device
#   PROGRAM         another binary than bin/signalbox
#   PORT ...        any setting of `signalbox serve`
set -euo pipefail
cd "$(dirname "$0")/.."

program=${PROGRAM:-bin/signalbox}
export HOST=${HOST:-127.0.0.1} PORT=${PORT:-3101} MQTT_LISTEN=${MQTT_LISTEN:-127.0.0.1:1883}
url=http://$HOST:$PORT
mqtt_host=${MQTT_LISTEN%:*} mqtt_port=${MQTT_LISTEN##*:}

temporary=''
if [[ -z ${DATA_DIR:-} ]]; then
    temporary=$(mktemp -d)
    export DATA_DIR=$temporary/data
fi
logs=${temporary:-$DATA_DIR}
mkdir -p "$logs"

server='' fleet=''
# shellcheck disable=SC2317 # called by the trap
stop() {
    # A second signal, of an impatient person or of make, must not end this
    # script before it has stopped both.
    trap - EXIT
    trap '' INT TERM HUP
    [[ -z $fleet ]] || kill "$fleet" 2>/dev/null || true
    [[ -z $fleet ]] || wait "$fleet" 2>/dev/null || true
    [[ -z $server ]] || kill "$server" 2>/dev/null || true
    [[ -z $server ]] || wait "$server" 2>/dev/null || true
    [[ -z $temporary ]] || rm -rf "$temporary"
}
trap stop EXIT
trap 'echo; exit 130' INT
trap 'exit 143' TERM

# answers PATH: whether the server answers it with 200. Bash alone can ask, so
# that a fresh machine needs no curl.
answers() {
    local status
    {
        exec 3<>"/dev/tcp/$HOST/$PORT" || return 1
        printf 'GET %s HTTP/1.0\r\n\r\n' "$1" >&3
        read -r -t 2 _ status _ <&3 || status=
        exec 3>&-
    } 2>/dev/null
    [[ $status == 200 ]]
}
running() { kill -0 "$1" 2>/dev/null; }
failed() { # what, its log
    echo "$1 stopped:" >&2
    tail -n 20 "$2" >&2
    exit 1
}

if answers /health/healthz; then
    echo "Something answers at $url already. Stop it, or choose another port: PORT=3201 MQTT_LISTEN=127.0.0.1:1884 INTERNAL_LISTEN= make demo" >&2
    exit 1
fi

# With job control each gets a process group of its own, so that Ctrl-C reaches
# this script alone, which then stops them in order.
set -m
"$program" serve >"$logs/serve.log" 2>&1 &
server=$!
set +m
for ((i = 0; i < 300; i++)); do
    answers /health/readyz && break
    running "$server" || failed 'The server' "$logs/serve.log"
    sleep 0.1
done
answers /health/readyz || failed 'The server is not ready and was' "$logs/serve.log"

set -m
"$program" sim --login token --devices "${DEVICES:-20}" --rate "${RATE:-2}" --mqtt "mqtt://$MQTT_LISTEN" --server "$url" >"$logs/sim.log" 2>&1 &
fleet=$!
set +m

cat <<EOT

Signalbox runs with ${DEVICES:-20} simulated devices. Open in a browser:

    $url/

Or in another terminal, everything in colour:
      bin/signalbox tail --all --server $url
  Only what went wrong, of one kind:
      bin/signalbox tail --all --server $url --level warn --grep wifi
  What they said before, and on from there:
      bin/signalbox logs --all --server $url --level error -n 50 -f

  The same by hand: open a stream,
      curl -N '$url/api/sse/stream?request_id=me'
  see which devices there are,
      curl -s $url/api/devices
  and follow number 1 in that stream:
      curl -s $url/api/device-logs/subscribe -H 'Content-Type: application/json' -d '{"request_id":"me","device_id":1}'
  What number 1 said before, and where all of them said a word:
      curl -s '$url/api/devices/1/logs?limit=5'
      curl -s -H 'Accept: text/plain' '$url/api/logs?query=panic*'
  Give number 1 another secret, which it fetches and uses:
      curl -s -X POST $url/api/devices/1/rotate
  Be a device (put its device_entity_id for ENTITY):
      mosquitto_pub -h $mqtt_host -p $mqtt_port -q 1 -t iotsupport/logsink -m '{"entity_id":"ENTITY","message":"I (42) hello: from my shell"}'

Logs of the two: $logs/serve.log, $logs/sim.log
Ctrl-C stops both.
EOT

while running "$server" && running "$fleet"; do
    wait -n "$server" "$fleet" || true
done
running "$server" || failed 'The server' "$logs/serve.log"
failed 'The simulated fleet' "$logs/sim.log"
