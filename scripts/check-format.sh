#!/usr/bin/env bash
# Fails when a Go file is not formatted by gofmt.
set -euo pipefail
cd "$(dirname "$0")/.."

unformatted=$(git ls-files -z --cached --others --exclude-standard '*.go' | xargs -0 -r gofmt -l)
if [[ -n $unformatted ]]; then
    printf 'not formatted, run gofmt -w on:\n%s\n' "$unformatted" >&2
    exit 1
fi
