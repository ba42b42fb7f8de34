#!/usr/bin/env bash
# Puts a cell of docker-compose.yml aside, and back: backup.sh take FOLDER SECRETS, backup.sh put FOLDER SECRETS. COMPOSE_FILE, the project's name and
# all else as for docker compose. FOLDER gets what the processes keep, SECRETS the volume `cell`, which opens it: keep them apart. Neither gets Redis, nor
# the volume `privacy`, whose keys die on time. What is put back is held (`sotto release`). docs/OPERATIONS.md, "Backup and restore".
set -euo pipefail
usage() { echo "usage: backup.sh take|put FOLDER SECRETS" >&2; exit 64; }
[ $# -eq 3 ] || usage
die() { echo "backup.sh: $*" >&2; exit 1; }
# Before the folder changes.
folder=$(realpath -m "$2") secrets=$(realpath -m "$3")
cd "$(dirname "$0")/../.."
if docker compose version >/dev/null 2>&1; then compose() { docker compose "$@"; }; else compose() { docker-compose "$@"; }; fi
umask 077

# The container of `init`, which sees every volume, and has ended: what is in it can be read and written, and nothing runs in it.
containers() { docker ps -aq --no-trunc --filter "label=com.docker.compose.project=$project" "$@"; }
find_init() {
  init=$(compose ps -q init 2>/dev/null | sed -n 1p)
  [ -n "$init" ] || init=$(compose ps -aq init 2>/dev/null | sed -n 1p)
  [ -n "$init" ] || die "there is no cell here: no container of init"
  project=$(docker inspect -f '{{index .Config.Labels "com.docker.compose.project"}}' "$init")
}
# Nothing of it runs: a message moves between streams, and only a copy of all of them at one moment has each exactly once.
stopped() {
  local running
  running=$(containers --filter status=running --filter status=restarting --filter status=paused)
  [ -z "$running" ] || die "it runs: stop it first, and all of it (docker compose stop)"
}
# Each process's place, once for each volume, but for what dies on time and what is made anew.
places() {
  docker inspect -f '{{range .Mounts}}{{.Name}} {{.Destination}}{{"\n"}}{{end}}' "$init" | sort -u -k1,1 |
    sed -n 's#^.* /shares/##p' | grep -vE '^(privacy|officer|redis.*)$'
}
has() { docker cp "$init:$1" - >/dev/null 2>&1; }

take() {
  local place kept archive
  find_init
  stopped
  has /cell/cell.toml || die "there is no cell in the volume cell"
  ! has /shares/privacy/hsm/tokens || die "the keys of this cell lie in tokens, a copy of which would outlive the keys that die on time: there is no backup of it yet"
  for kept in "$folder" "$secrets"; do
    mkdir -p "$kept"
    [ -z "$(ls -A "$kept")" ] || die "$kept is not empty"
  done
  for place in $(places); do
    # What it keeps, and not what it was given: that is in the volume cell, and opens it.
    for kept in data keystore; do
      archive=$folder/$place.$kept.tar
      docker cp "$init:/shares/$place/$kept" - >"$archive" 2>"$secrets/said" && continue
      grep -q "Could not find the file" "$secrets/said" || die "$(cat "$secrets/said")"
      rm "$archive"
    done
  done
  rm -f "$secrets/said"
  docker cp "$init:/cell/." - >"$secrets/cell.tar"
  for kept in "$folder" "$secrets"; do
    (cd "$kept" && sha256sum -- *.tar >SHA256SUMS)
    sync -f "$kept"
  done
  stopped
  echo "$(ls "$folder" | grep -c 'tar$') archives are in $folder; what opens them is in $secrets: keep it elsewhere"
  echo "not in it: the keys that die on time (volume privacy), and Redis, which is rebuilt from the log"
}

put() {
  local kept archive place said
  for kept in "$folder" "$secrets"; do
    [ -f "$kept/SHA256SUMS" ] || die "$kept is not a folder that backup.sh wrote"
    (cd "$kept" && sha256sum --quiet -c SHA256SUMS) || die "$kept is not as it was written"
  done
  [ -f "$secrets/cell.tar" ] || die "$secrets has no cell.tar: is it the folder of the secrets?"
  # It alone: it mounts every volume, and waits for nobody.
  said=$(compose up --no-start init 2>&1) || die "$said"
  find_init
  stopped
  ! has /cell/cell.toml || die "there is a cell in the volume cell: remove it first (docker compose down, and docker volume rm of all volumes but privacy's)"
  # It is held before it could start: without the keystores, which come last, `init` hands nothing out.
  docker cp - "$init:/cell" <"$secrets/cell.tar"
  compose run --rm --no-deps -T init restore --in-place
  for archive in "$folder"/*.data.tar "$folder"/*.keystore.tar; do
    place=$(basename "$archive")
    docker cp - "$init:/shares/${place%%.*}" <"$archive"
  done
  # Hands out what they were given, with the word that they hold.
  said=$(compose run --rm --no-deps -T init 2>&1) || die "$said"
}

case $1 in
  take) take ;;
  put) put ;;
  *) usage ;;
esac
