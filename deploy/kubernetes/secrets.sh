#!/usr/bin/env bash
# Prints what the pods of a cell are given, as Secrets and ConfigMaps: from the shares of `sotto init --containers SHARES`,
# with no cluster and nothing changed. docs/KUBERNETES.md says what becomes of it.
set -euo pipefail

usage() {
  cat >&2 <<'TEXT'
usage: secrets.sh [--birth] [--carriers FILE] [--namespace NAME] SHARES
  --birth      also the keystores of privacy, identity and audit, for their first start, and not again
  --carriers   your carriers file instead of the cell's own, which has the simulator
  --namespace  default: sotto
TEXT
  exit 64
}

birth= carriers= namespace=sotto shares=
while [ $# -gt 0 ]; do
  case $1 in
    --birth) birth=1 ;;
    --carriers) carriers=${2:-} && shift ;;
    --namespace) namespace=${2:-} && shift ;;
    -*) usage ;;
    *) [ -z "$shares" ] && shares=$1 || usage ;;
  esac
  shift || usage
done
[ -n "$shares" ] && [ -n "$namespace" ] || usage
[ -d "$shares/privacy" ] || { echo "secrets.sh: $shares has no shares: sotto init --containers $shares" >&2; exit 1; }
carriers=${carriers:-$shares/routing/carriers.toml}

# object KIND NAME FILE…: a Secret (`secret generic`) or ConfigMap of these files, each under its own name.
object() {
  local kind=$1 name=$2 file
  local arguments=()
  shift 2
  for file in "$@"; do
    [ -s "$file" ] || { echo "secrets.sh: $file is missing or empty" >&2; exit 1; }
    arguments+=(--from-file="${file##*/}=$file")
  done
  echo ---
  # shellcheck disable=SC2086
  kubectl create $kind "$name" --namespace "$namespace" --dry-run=client -o yaml "${arguments[@]}"
}

for service in ingress routing carrier identity privacy audit; do
  share=$shares/$service
  given=("$share/tls/ca.pem" "$share/tls/$service.pem" "$share/tls/$service.key" "$share/nats/nkeys/$service.current.seed")
  for file in "$share"/secrets/* "$share/identity/invitation.json"; do
    [ ! -f "$file" ] || given+=("$file")
  done
  object "secret generic" "$service" "${given[@]}"
  object configmap "$service" "$share/config/$service.toml"
done
object configmap carriers "$carriers"
object "secret generic" ingress-keystore "$shares/ingress/keystore/ingress.sks"
if [ -n "$birth" ]; then
  object "secret generic" identity-keystore "$shares/identity/keystore/identity.sks"
  object "secret generic" privacy-keystore "$shares/privacy/keystore/buckets.sks"
  object "secret generic" audit-keystore "$shares/audit/keystore/audit.sks"
fi
object "secret generic" redis "$shares"/redis/{redis/redis.conf,redis/users.acl,tls/ca.pem,tls/redis.pem,tls/redis.key}

# Every broker's files in one Secret: they run the same image, and whoever is one of them sees everything anyway. What is in
# a folder of its own gets another name.
brokers=()
for share in "$shares"/nats "$shares"/nats-[123]; do
  [ ! -d "$share" ] || brokers+=("$share")
done
[ "${#brokers[@]}" -gt 0 ] || { echo "secrets.sh: $shares has no broker" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for share in "${brokers[@]}"; do
  cp "$share"/nats/*.conf "$share"/tls/*.pem "$share"/tls/*.key "$work/"
  # The broker's own list of authorities beside the cell's.
  cp "$share/nats/ca.pem" "$work/clients-and-cell-ca.pem"
  if [ -d "$share/nats/routes" ]; then
    cp "$share/nats/routes-ca.pem" "$work/"
    for file in "$share"/nats/routes/*; do cp "$file" "$work/routes.${file##*/}"; done
  fi
done
object "secret generic" nats "$work"/*
