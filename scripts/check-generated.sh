#!/usr/bin/env bash
# Fails when `go generate` changes anything. In a clean checkout that is
# `git diff --exit-code`; comparing before and after also works amid unfinished work.
set -euo pipefail
cd "$(dirname "$0")/.."

state() {
    git status --porcelain --untracked-files=all
    git diff
}
before=$(state)
go generate ./...
if [[ $(state) != "$before" ]]; then
    echo 'generated files were stale; they are now as they should be:' >&2
    git status --short >&2
    exit 1
fi
