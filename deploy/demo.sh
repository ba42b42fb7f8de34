#!/usr/bin/env bash
# One message crosses the whole platform: a cell is made in a temporary folder, started, used, and taken down again.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
PATH="$root/.tools/bin:$PATH"
export PATH

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
[ -t 1 ] || say() { printf '\n== %s\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }

deploy/tools/setup.sh demo

say "building (the first time takes a few minutes)"
cargo build --workspace --locked --bins

cell=$(mktemp -d "${TMPDIR:-/tmp}/sotto-demo.XXXXXX")
up=
finish() {
  status=$?
  trap - EXIT INT TERM
  if [ -n "$up" ] && kill -0 "$up" 2>/dev/null; then
    kill -TERM "$up"
    wait "$up" || true
  fi
  if [ "$status" -eq 0 ]; then
    rm -rf "$cell"
  else
    echo "the demo failed; what it left behind for you to look at: $cell (logs in $cell/demo/logs)" >&2
  fi
  exit "$status"
}
trap finish EXIT INT TERM
sotto() { "$root/target/debug/sotto" --cell "$cell/demo" "$@"; }

say "a cell is born: keys, certificates, configuration"
show sotto init --id demo

say "it starts: broker, Redis, the carrier simulator, six services"
# Not through the function: the process to end is sotto itself, not a shell around it.
"$root/target/debug/sotto" --cell "$cell/demo" up --listen 127.0.0.1:0 --token-listen 127.0.0.1:0 >"$cell/up.log" 2>&1 &
up=$!
tail -n +1 -f "$cell/up.log" --pid "$up" 2>/dev/null &
follow=$!
for _ in $(seq 600); do
  [ -f "$cell/demo/run/cell.json" ] && break
  if ! kill -0 "$up" 2>/dev/null; then
    echo "the cell did not start" >&2
    cat "$cell/up.log" >&2
    exit 1
  fi
  sleep 0.1
done
kill "$follow" 2>/dev/null || true
wait "$follow" 2>/dev/null || true
[ -f "$cell/demo/run/cell.json" ] || { echo "the cell was not ready within 60 seconds" >&2; exit 1; }

say "you become its owner and register a client that may send"
show sotto owner claim
show sotto client create --name shop --tenant acme --sender ACMEBANK

say "a Vietnamese one-time code is sent (gRPC, access token by private_key_jwt)"
text='Mã xác thực của bạn là 482913. Không chia sẻ mã này với bất kỳ ai.'
id=$(printf '%s' "$text" | sotto --json send --client shop --to +84912345678 --from ACMEBANK --class otp --text - |
  sed -n 's/.*"message_id":"\([^"]*\)".*/\1/p')
[ -n "$id" ] || { echo "the message was not accepted" >&2; exit 1; }
echo "accepted: $id"

say "its journey"
show sotto message show "$id" --client shop --wait 30

say "its audit entry: the proof is checked here, against the key pinned at the cell's birth"
event=$(sotto --json message show "$id" --client shop |
  sed 's/},{/\n/g' | sed -n 's/.*"event_sequence":\([1-9][0-9]*\).*/\1/p' | tail -n 1)
show sotto audit prove "$event" --wait 30

say "the ledger: every accepted message is somewhere"
show sotto ledger check

say "done: delivered; the cell is taken down"
