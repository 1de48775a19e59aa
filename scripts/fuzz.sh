#!/usr/bin/env bash
# Runs every fuzz test for FUZZTIME, one after the other.
set -euo pipefail
cd "$(dirname "$0")/.."

git grep -oE '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go' | while IFS=: read -r file func; do
    name=${func#func }
    echo "== $name in $(dirname "$file")"
    go test -run '^$' -fuzz "^$name\$" -fuzztime "${FUZZTIME:-30s}" "./$(dirname "$file")"
done
