#!/usr/bin/env bash
# Fails when internal/ui/dist, which is part of the program, is not what its
# source gives. It is built beside it and compared, byte by byte.
set -euo pipefail
cd "$(dirname "$0")/../internal/ui"

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
npx --no-install vite build --logLevel warn --outDir "$fresh/dist" --emptyOutDir

if ! diff -qr dist "$fresh/dist" >"$fresh/differences" 2>&1; then
    sed "s|$fresh/dist|the fresh build|g" "$fresh/differences" >&2
    echo 'internal/ui/dist is not what the source gives: run "make page" and commit internal/ui/dist with your change.' >&2
    exit 1
fi
