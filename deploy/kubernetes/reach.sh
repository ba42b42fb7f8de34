#!/usr/bin/env bash
# Runs `sotto` against a cell in Kubernetes, from the machine that has its folder: reach.sh [--namespace NAME] CELL COMMAND…
# Every process is reached by `kubectl port-forward`, so the keys of people and of the authority never are in the cluster
# (docs/KUBERNETES.md).
set -euo pipefail

namespace=sotto
if [ "${1:-}" = --namespace ]; then
  namespace=${2:?"which namespace?"}
  shift 2
fi
[ $# -ge 2 ] || { echo "usage: reach.sh [--namespace NAME] CELL COMMAND…" >&2; exit 64; }
cell=$(cd "$1" && pwd)
shift
[ -f "$cell/run/cell.json" ] || { echo "reach.sh: $cell is no cell for containers: sotto init --containers" >&2; exit 1; }

work=$(mktemp -d)
# How many ports of a process are asked for, and who forwards them.
declare -A wanted=() by=()
finish() {
  [ "${#by[@]}" -eq 0 ] || kill "${by[@]}" 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT

# The cell's own folder, but for where its processes are found.
mkdir -p -m 700 "$cell/operator" "$cell/clients" "$work/cell/run" "$work/log"
for entry in "$cell"/*; do
  [ "${entry##*/}" = run ] || ln -s "$entry" "$work/cell/${entry##*/}"
done

# forward WHAT NAME PORT…
forward() {
  local what=$1 name=$2
  shift 2
  wanted[$name]=$#
  : >"$work/log/$name"
  kubectl --namespace "$namespace" port-forward "$what" "${@/#/:}" >"$work/log/$name" 2>&1 &
  by[$name]=$!
}
for service in ingress routing; do
  ports=(7450)
  [ "$service" != ingress ] || ports+=(7443 7402)
  forward "deployment/$service" "$service" "${ports[@]}"
done
forward statefulset/carrier carrier 7450 7407
forward statefulset/identity identity 7450 7444 7404
forward statefulset/privacy privacy 7450 7405
forward statefulset/audit audit 7450 7406
forward statefulset/redis redis 6379
if [ -f "$cell/nats/nats-1.conf" ]; then
  for broker in nats-1 nats-2 nats-3; do forward "pod/$broker" "$broker" 4222; done
else
  forward pod/nats-0 nats 4222
fi

# What is not reached within 10 s is left out: one broker of three may be away, and `sotto doctor` says what is.
edit=()
for name in "${!wanted[@]}"; do
  log=$work/log/$name
  until=$((SECONDS + 10))
  until [ "$(grep -c 'Forwarding from 127' "$log")" -ge "${wanted[$name]}" ] || [ "$SECONDS" -ge "$until" ] ||
    ! kill -0 "${by[$name]}" 2>/dev/null; do sleep 0.1; done
  host=127.0.0.1
  case $name in nats*) host=localhost ;; esac
  while read -r here there; do
    edit+=(-e "s#\\([\"/]\\)$name\\.[^:\"]*:$there#\\1$host:$here#")
  done < <(sed -n 's/^Forwarding from 127\.0\.0\.1:\([0-9]*\) -> \([0-9]*\)$/\1 \2/p' "$log")
done
[ "${#edit[@]}" -gt 0 ] || { cat "$work"/log/* >&2; echo "reach.sh: nothing of the cell is reached" >&2; exit 1; }
sed "${edit[@]}" "$cell/run/cell.json" >"$work/cell/run/cell.json"

status=0
sotto --cell "$work/cell" "$@" || status=$?
exit "$status"
