#!/usr/bin/env bash
# Works on the web page in internal/ui. Node is needed for that alone: the built
# page is in the repository, and `go build` takes it from there.
#   scripts/page.sh build     writes internal/ui/dist, when a source is newer
#   scripts/page.sh check     types, format, unit tests, and whether dist is what the source gives
#   scripts/page.sh browser   the tests with Chromium against bin/signalbox, or $SIGNALBOX_BIN
# Without Node the last two are skipped, unless CI is set to true.
set -euo pipefail
cd "$(dirname "$0")/../internal/ui"

least=20.19
node_missing() {
    local have
    have=$(node --version 2>/dev/null) || { echo 'Node is not installed'; return; }
    [[ $(printf '%s\n' "$least" "${have#v}" | sort -V | head -n 1) == "$least" ]] || echo "Node is ${have#v}, and $least is needed"
}

# Installs exactly what package-lock.json names, when it is not there.
packages() {
    [[ ${CI:-} != true && node_modules/.package-lock.json -nt package-lock.json ]] || npm ci --no-audit --no-fund
}

task=${1:-build}
lack=$(node_missing)
if [[ -n $lack ]]; then
    if [[ $task == build || ${CI:-} == true ]]; then
        echo "$lack: the web page cannot be built or tested. On Debian 13 \"make setup\" installs it." >&2
        exit 1
    fi
    echo "Skipped, the ${task/browser/browser tests} of the web page: $lack." >&2
    exit 0
fi

case $task in
build)
    if [[ -e dist/index.html && -z $(find src public index.html package.json package-lock.json tsconfig.json vite.config.ts -newer dist/index.html -print -quit) ]]; then
        exit 0
    fi
    packages
    npm run build
    ;;
check)
    packages
    npm run check
    npm test
    ../../scripts/check-page.sh
    ;;
browser)
    packages
    npm run browser
    ;;
*)
    echo "usage: scripts/page.sh build|check|browser" >&2
    exit 2
    ;;
esac
