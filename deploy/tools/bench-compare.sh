#!/usr/bin/env bash
# Benches of the pure code, of another revision and of this folder, on this machine: what became slower or faster.
# Usage: bench-compare.sh REVISION [criterion's arguments]
set -euo pipefail
cd "$(dirname "$0")/../.."

base=${1:-}
[ -n "$base" ] || {
  echo "usage: make bench-compare BASE=<revision>" >&2
  exit 64
}
shift
revision=$(git rev-parse --verify "$base^{commit}")
target=$PWD/target
folder=$(mktemp -d)
trap 'git worktree remove --force "$folder/base"; rmdir "$folder"' EXIT
git worktree add --quiet --detach "$folder/base" "$revision"

bench=(cargo bench --locked -p sotto-benches --bench hot --)
# One target folder for both: what did not change is built once, and criterion finds the other's figures.
(cd "$folder/base" && CARGO_TARGET_DIR=$target "${bench[@]}" --noplot --save-baseline base "$@")
"${bench[@]}" --noplot --baseline base "$@"
