#!/usr/bin/env bash
# Exchanges the containers of services for ones of the images that are there now, while the cell goes on: roll.sh SERVICE…
# One container after the other is told to stop, finishes what it has, and goes; the next one waits until the new one is healthy, and after a broker
# until each stream has three copies again. COMPOSE_FILE, SOTTO_VERSION and all else as for docker compose. Stops at the first that does not come up.
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: roll.sh SERVICE…" >&2; exit 64; }
cd "$(dirname "$0")/../.."
if docker compose version >/dev/null 2>&1; then compose() { docker compose "$@"; }; else compose() { docker-compose "$@"; }; fi
# As long as the longest time that one may take to finish, and some.
STOPS=75 COMES_UP=180

# wait_for SECONDS WHAT COMMAND…
wait_for() {
  local until=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    [ "$SECONDS" -lt "$until" ] || { echo "waited in vain for $what; nothing further is stopped" >&2; exit 1; }
    sleep 1
  done
}
# all_of SERVICE [FILTER…]: its containers.
all_of() {
  local filters=()
  for filter in "${@:2}"; do filters+=(--filter "$filter"); done
  docker ps -q --no-trunc --filter "label=com.docker.compose.project=$project" --filter "label=com.docker.compose.service=$1" \
    --filter label=com.docker.compose.oneoff=False "${filters[@]}"
}
# healthy SERVICE N: that so many are.
healthy() { [ "$(all_of "$1" health=healthy | wc -l)" -eq "$2" ]; }
whole() { grep -q '^ok .*three copies of each stream$' <<<"$(compose run --rm -T sotto doctor 2>/dev/null)"; }
# Whether it is a broker of three.
of_three() { [[ $1 == nats* ]] && [ -n "$(all_of nats-2)" ]; }

some=$(compose ps -q "$1" | sed -n 1p)
[ -n "$some" ] || { echo "$1 does not run" >&2; exit 1; }
project=$(docker inspect -f '{{index .Config.Labels "com.docker.compose.project"}}' "$some")
for service in "$@"; do
  mapfile -t old < <(all_of "$service")
  [ "${#old[@]}" -gt 0 ] || { echo "$service does not run" >&2; exit 1; }
  # Who cannot be spared now is not stopped.
  if of_three "$service"; then wait_for $COMES_UP "three copies of each stream" whole; fi
  for id in "${old[@]}"; do
    docker stop -t $STOPS "$id" >/dev/null
    docker rm "$id" >/dev/null
    said=$(compose up -d --no-deps --no-recreate "$service" 2>&1) || { echo "$said" >&2; exit 1; }
    wait_for $COMES_UP "$service to be healthy" healthy "$service" "${#old[@]}"
  done
  if of_three "$service"; then wait_for $COMES_UP "three copies of each stream" whole; fi
  echo "$service: ${#old[@]} exchanged"
done
