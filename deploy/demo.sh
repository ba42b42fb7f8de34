#!/usr/bin/env bash
# One message crosses the whole platform: a cell is made in a temporary folder, started, used, and taken down again.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
PATH="$HOME/.cargo/bin:$root/.tools/bin:$PATH"
export PATH

bold= plain=
if [ -t 1 ]; then
  bold=$(printf '\033[1m') plain=$(printf '\033[0m')
fi
step=0
say() {
  step=$((step + 1))
  printf '\n%s== %s. %s%s\n' "$bold" "$step" "$*" "$plain"
}
show() {
  printf '$ %s\n' "$*"
  "$@"
}
die() {
  echo "$1" >&2
  exit 1
}

say "what this machine lacks is installed"
deploy/tools/setup.sh demo

say "the programs are built (the first time takes some minutes)"
cargo build --workspace --locked --bins

cell=$(mktemp -d "${TMPDIR:-/tmp}/sotto-demo.XXXXXX")
up=
finish() {
  status=$?
  trap - EXIT INT TERM
  if [ -n "$up" ] && kill -0 "$up" 2>/dev/null; then
    kill -TERM "$up"
    wait "$up" || echo "the cell did not stop cleanly" >&2
  fi
  if [ "$status" -eq 0 ]; then
    rm -rf "$cell"
  else
    echo "the demo failed; what it left behind for you to look at: $cell (logs in $cell/demo/logs)" >&2
  fi
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
sotto() { "$root/target/debug/sotto" --cell "$cell/demo" "$@"; }

say "a cell is born: its keys, certificates, passwords and configuration"
show sotto init --id demo

say "it starts: broker, Redis, a carrier that is simulated, six services"
# It is read before the shell that starts the cell may have come to make it.
: >"$cell/up.log"
# Not through the function: the process to end is sotto itself, not a shell around it.
"$root/target/debug/sotto" --cell "$cell/demo" up --listen 127.0.0.1:0 --token-listen 127.0.0.1:0 >"$cell/up.log" 2>&1 &
up=$!
told=0
progress() {
  lines=$(wc -l <"$cell/up.log")
  [ "$lines" -gt "$told" ] || return 0
  sed -n "$((told + 1)),${lines}p" "$cell/up.log"
  told=$lines
}
for _ in $(seq 1200); do
  progress
  ! grep -q '^the cell is up' "$cell/up.log" || break
  if ! kill -0 "$up" 2>/dev/null; then
    wait "$up" || true
    progress >&2
    die "the cell did not start"
  fi
  sleep 0.1
done
progress
[ -f "$cell/demo/run/cell.json" ] || die "the cell was not ready within two minutes"

say "you become its owner, and register a client that may send"
show sotto owner claim
show sotto client create --name shop --tenant acme --sender ACMEBANK

say "a Vietnamese one-time code is sent (gRPC over TLS; the access token by private_key_jwt)"
text='Mã xác thực của bạn là 482913. Không chia sẻ mã này với bất kỳ ai.'
echo "\$ sotto send --client shop --from ACMEBANK --class otp --to - --text -"
# Number and text by standard input: what is on a command line, every user of a machine can see.
id=$(printf '%s\n%s' +84912345678 "$text" |
  sotto --json send --client shop --from ACMEBANK --class otp --to - --text - |
  sed -n 's/.*"message_id":"\([^"]*\)".*/\1/p')
[ -n "$id" ] || die "the message was not accepted"
echo "accepted $id"

say "its journey"
show sotto message show "$id" --client shop --wait 30

say "its audit entry: the proof is checked here, against the key pinned at the cell's birth"
event=$(sotto --json message show "$id" --client shop |
  sed 's/},{/\n/g' | sed -n 's/.*"event_sequence":\([1-9][0-9]*\).*/\1/p' | tail -n 1)
show sotto audit prove "$event" --wait 30

say "and that of an act: the newest access token of the client"
client=$(sed -n 's/.*"client_id": "\([^"]*\)".*/\1/p' "$cell/demo/clients/shop.json")
show sotto audit act token.issued --actor "$client" --wait 30

say "the ledger: every accepted message is somewhere"
show sotto ledger check

say "the cell is taken down"
# Every process that it has now, before it forgets them.
processes=$(sed -n 's/^.*: \([0-9][0-9]*\),\{0,1\}$/\1/p' "$cell/demo/run/cell.json")
[ "$(echo "$processes" | wc -l)" -ge 10 ] || die "run/cell.json does not name the cell's processes"
kill -TERM "$up"
stopped=0
wait "$up" || stopped=$?
up=
progress
[ "$stopped" -eq 0 ] || die "sotto up ended with exit code $stopped"
for process in $processes; do
  ! kill -0 "$process" 2>/dev/null || die "process $process of the cell still runs"
done
echo "nothing of it runs any more"

printf '\n%sDelivered.%s What you saw, explained: docs/cli.md. A cell of your own:\n' "$bold" "$plain"
echo "  target/debug/sotto init && target/debug/sotto up"
