#!/usr/bin/env bash
# Whether what programs of the last release say and understand is still said and understood: the protocol files against
# proto/compatible.binpb, by the rules of proto/buf.yaml (docs/UPGRADING.md). First it shows that these rules see a break.
set -euo pipefail
cd "$(dirname "$0")/../../proto"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# finds WHAT FILE SED-EXPRESSION: a copy with this change must be refused.
finds() {
  rm -rf "$work/proto"
  cp -R . "$work/proto"
  sed -i.bak "$3" "$work/proto/$2"
  ! cmp -s "$2" "$work/proto/$2" || { echo "breaking.sh: $2 has nothing to break any more: $1" >&2; exit 1; }
  # It must be a schema still: what does not even build says nothing about the rules.
  (cd "$work/proto" && buf build -o /dev/null) || exit 1
  ! (cd "$work/proto" && buf breaking --against compatible.binpb >/dev/null 2>&1) ||
    { echo "breaking.sh: this was not noticed: $1" >&2; exit 1; }
}
finds "another type under the same number" sotto/message/v1/message.proto 's/^\( *\)string idempotency_key = /\1int32 idempotency_key = /'
finds "another number" sotto/message/v1/message.proto 's/^\( *string idempotency_key = \)[0-9]*/\1999/'
finds "a method that is gone" sotto/message/v1/message.proto '/rpc CancelMessage/d'
finds "another name of a method" sotto/privacy/v1/privacy.proto 's/rpc UnwrapKeys(/rpc OpenKeys(/'

buf breaking --against compatible.binpb
