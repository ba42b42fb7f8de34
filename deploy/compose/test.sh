#!/usr/bin/env bash
# `make compose-test`: the cell of docker-compose.yml, from nothing to nothing, with faults on the way. What the carrier got
# is counted by the carrier (the simulator). Needs Docker and the Compose tool; leaves nothing behind but built programs.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
PATH="$HOME/.cargo/bin:$root/.tools/bin:$PATH"

# Messages of the load. Each has a number of its own, so that the carrier counts any that it gets twice.
MESSAGES=${MESSAGES:-240}
WORKERS=4
SERVICES=(ingress routing carrier identity privacy audit)

export COMPOSE_PROJECT_NAME=sotto-compose-test COMPOSE_FILE=docker-compose.yml
export SOTTO_VERSION=compose-test SOTTO_CELL=vn SOTTO_TOKEN_PORT=17444 SOTTO_INGRESS_PORTS=17450-17459
# Docker's own builder, which every engine has.
export DOCKER_BUILDKIT=0
if docker compose version >/dev/null 2>&1; then compose() { docker compose "$@"; }; else compose() { docker-compose "$@"; }; fi
command -v docker-compose >/dev/null 2>&1 || docker compose version >/dev/null 2>&1 || { echo "no Compose tool: apt-get install docker-compose" >&2; exit 1; }
docker info >/dev/null || { echo "no Docker here" >&2; exit 1; }

work=$(mktemp -d)
runner=sotto-compose-test-runner
load=
say() { printf '\n== %s s: %s\n' "$SECONDS" "$*"; }
die() { echo "compose-test: $*" >&2; exit 1; }

clean() {
  docker rm -f "$runner" >/dev/null 2>&1 || true
  compose --profile tool down -v --remove-orphans -t 45 >"$work/down.log" 2>&1
}
finish() {
  status=$?
  trap - EXIT INT TERM
  [ -z "$load" ] || kill "$load" 2>/dev/null || true
  if [ "$status" -ne 0 ]; then
    compose ps >&2 || true
    compose logs --no-color --tail=15 >&2 || true
    cat "$work"/*.log >&2 || true
    clean || true
  fi
  rm -rf "$work"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# wait_for SECONDS WHAT COMMAND…: until the command succeeds.
wait_for() {
  local until=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    [ "$SECONDS" -lt "$until" ] || die "waited in vain for $what"
    sleep 0.5
  done
}
inspect() { docker inspect -f "$2" "$1"; }
containers() { compose ps -q "$1"; }
first() { containers "$1" | sed -n 1p; }
healthy() {
  local id
  for id in $(containers "$1"); do [ "$(inspect "$id" '{{.State.Health.Status}}')" = healthy ] || return 1; done
}
number_of() { containers "$1" | wc -l; }
# The tool, as the documentation says to run it.
sotto() { compose run --rm -T sotto "$@"; }
# What is in an object of one line: field NAME
field() { sed -n "s/.*\"$1\":\"\{0,1\}\([^,\"}]*\).*/\1/p" | sed -n 1p; }
# One of the carrier's counters.
count() {
  local address
  address=$(inspect "$(first simulator)" '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}')
  exec 3<>"/dev/tcp/$address/2776"
  printf 'GET /counters HTTP/1.1\r\nhost: %s\r\nconnection: close\r\n\r\n' "$address" >&3
  cat <&3 | field "$1"
  exec 3>&-
}

say "images: the programs, linked statically"
clean
# Built for the test: with less optimisation, and so larger and slower than what users build.
CARGO_PROFILE_IMAGE_LTO=off CARGO_PROFILE_IMAGE_OPT_LEVEL=1 deploy/compose/programs.sh target/images
# The last stage of the Dockerfile, on programs that are built outside of it.
sed -n '/^FROM scratch/,$p' deploy/Dockerfile | sed 's/--from=build //; s# /out/# #' >"$work/Dockerfile"
for image in sotto simulator "${SERVICES[@]}"; do
  program=sotto-$image
  [ "$image" != sotto ] || program=sotto
  docker build -q --build-arg PROGRAM="$program" -t "sotto/$image:$SOTTO_VERSION" -f "$work/Dockerfile" target/images >"$work/build.log" 2>&1
  size=$(docker image inspect -f '{{.Size}}' "sotto/$image:$SOTTO_VERSION")
  printf '%s %s MB\n' "$image" $((size / 1000000))
  [ "$size" -lt 40000000 ] || die "the image of $image has $size bytes"
done
deploy/compose/stand-ins.sh

say "up"
compose up -d >"$work/up.log" 2>&1
for service in nats redis simulator "${SERVICES[@]}"; do wait_for 60 "$service" healthy "$service"; done

say "what every container may do"
for service in nats redis simulator "${SERVICES[@]}"; do
  id=$(first "$service")
  told=$(inspect "$id" '{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}}')
  [ "$told" = "65532:65532 true [ALL] [no-new-privileges:true]" ] || die "$service: $told"
  told=$(inspect "$id" '{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}')
  grep -Eq '^([1-9][0-9]*) \1 [1-9][0-9]* [1-9][0-9]*$' <<<"$told" || die "$service has no limits: $told"
  seen=$(inspect "$id" '{{range .Mounts}}{{.Name}} {{end}}')
  [ "$seen" = "${COMPOSE_PROJECT_NAME}_$service " ] || die "$service sees $seen"
  state=$(grep -E '^(CapEff|NoNewPrivs|Uid)' "/proc/$(inspect "$id" '{{.State.Pid}}')/status" | tr -s '\t\n' ' ')
  [ "$state" = "Uid: 65532 65532 65532 65532 CapEff: 0000000000000000 NoNewPrivs: 1 " ] || die "$service: $state"
  # Every key, nkey, keystore and password that it sees is its own; the test carrier's password has two ends.
  secrets=$(docker cp "$id:/cell" - | tar -t | grep -E '\.(key|seed|sks)$|/secrets/.')
  others=$(grep -vE "$service|^cell/secrets/simulator$|^cell/keystore/buckets.sks$" <<<"$secrets" || true)
  grep -q "^cell/tls/$service.key$" <<<"$secrets" && [ -z "$others" ] || die "$service sees $others"
  ! grep -q buckets <<<"$secrets" || [ "$service" = privacy ] || die "$service sees the keys that die"
done

say "the steps that are printed: an owner, a client, a message"
sotto owner claim
sotto client create --name shop --tenant acme --sender ACMEBANK
id=$(printf '+84912345678\nYour code is 482913' |
  sotto --json send --client shop --from ACMEBANK --class otp --to - --text - | field message_id)
[ -n "$id" ] || die "the message was not accepted"
id_shown=$id
shown=$(sotto message show "$id" --client shop --wait 30)
echo "$shown"
grep -q "delivered" <<<"$shown" || die "the message was not delivered"
sotto doctor

say "two of routing, connector and ingress"
compose up -d --no-recreate --scale routing=2 --scale carrier=2 --scale ingress=2 >"$work/scale.log" 2>&1
for service in routing carrier ingress; do
  [ "$(number_of "$service")" -eq 2 ] || die "$service was not scaled"
  wait_for 60 "$service" healthy "$service"
done
[ "$(docker inspect -f '{{(index (index .NetworkSettings.Ports "7443/tcp") 0).HostPort}}' $(containers ingress) | sort -u | wc -l)" -eq 2 ] ||
  die "the two ingresses have no port each"
both_bound() { [ "$(count links)" -eq 2 ]; }
wait_for 60 "both connectors to be bound" both_bound

say "$MESSAGES messages, and faults"
# Watches until it is told to end: a container of the tool to run more in.
compose run -d --name "$runner" sotto watch --client shop >/dev/null
send() { # N: as the documentation asks: in doubt, again with the same key
  local until=$((SECONDS + 120))
  until printf '+8491%07d\nYour code is %06d' "$1" "$1" |
    docker exec -i "$runner" /program --cell /cell --json send --client shop --from ACMEBANK --class otp --to - --text - \
      --idempotency-key "load-$1" >>"$work/accepted" 2>"$work/refused.$2"; do
    # Given up, or the test is over.
    [ "$SECONDS" -lt "$until" ] && [ -f "$work/accepted" ] || return 1
  done
}
worker() { for ((n = $1; n < MESSAGES; n += WORKERS)); do send "$n" "$1" || return 1; done; }
workers() {
  local pids=() pid
  for ((w = 0; w < WORKERS; w++)); do worker "$w" & pids+=($!); done
  for pid in "${pids[@]}"; do wait "$pid" || return 1; done
}
: >"$work/accepted"
workers &
load=$!
accepted() { [ "$(wc -l <"$work/accepted")" -ge "$1" ] || ! kill -0 "$load" 2>/dev/null; }
for victim in routing carrier ingress; do
  case $victim in routing) at=1 ;; carrier) at=2 ;; ingress) at=3 ;; esac
  wait_for 120 "messages to be accepted" accepted $((MESSAGES * at / 6))
  id=$(first "$victim")
  docker kill -s KILL "$id" >/dev/null
  echo "at $SECONDS s, $(wc -l <"$work/accepted") accepted: one of $victim is killed"
  eval "killed_$victim=$id"
done
wait_for 120 "messages to be accepted" accepted $((MESSAGES * 4 / 6))
compose restart -t 30 nats >"$work/restart.log" 2>&1
echo "at $SECONDS s, $(wc -l <"$work/accepted") accepted: the broker was restarted"
# shellcheck disable=SC2154
docker start "$killed_routing" "$killed_carrier" "$killed_ingress" >/dev/null
wait "$load" || die "a message was not accepted within two minutes: $(cat "$work"/refused.*)"
load=
[ "$(sed -n 's/.*"message_id":"\([^"]*\)".*/\1/p' "$work/accepted" | sort -u | wc -l)" -eq "$MESSAGES" ] ||
  die "not every message has an id of its own"

say "nothing is lost, nothing twice"
all=$((MESSAGES + 1))
ended() {
  sotto --json ledger check >"$work/ledger" 2>"$work/ledger.log" || return 1
  delivered=$(field delivered <"$work/ledger") doubt=$(field in_flight <"$work/ledger")
  [ "$(field accepted <"$work/ledger")" -eq "$all" ] && [ $((delivered + doubt)) -eq "$all" ] && [ "$doubt" -le 10 ]
}
wait_for 120 "every message to be delivered, or in doubt after the kill of its connector" ended
cat "$work/ledger"
parts=$(count parts) duplicates=$(count duplicates)
echo "the carrier got $parts parts, $duplicates twice; $doubt of $all in doubt"
[ "$duplicates" -eq 0 ] || die "$duplicates parts were sent twice"
[ "$parts" -le "$all" ] && [ "$parts" -ge $((all - doubt)) ] || die "$parts parts for $all messages, $doubt in doubt"
for service in nats redis simulator "${SERVICES[@]}"; do wait_for 60 "$service" healthy "$service"; done
sotto doctor
sotto audit verify

say "stopped and started again, it is the same cell, of one replica each"
docker rm -f "$runner" >/dev/null
compose stop -t 45 >"$work/stop.log" 2>&1
for service in "${SERVICES[@]}"; do
  for id in $(containers "$service"); do
    [ "$(inspect "$id" '{{.State.ExitCode}}')" -eq 0 ] || die "$service did not stop in order"
  done
done
compose up -d >"$work/again.log" 2>&1
for service in nats redis simulator "${SERVICES[@]}"; do wait_for 60 "$service" healthy "$service"; done
grep -q "cell vn is there" <<<"$(compose logs --no-color init)" || die "init did not find the cell"
wait_for 60 "the ledger as it was" ended
grep -q delivered <<<"$(sotto message show "$id_shown" --client shop)" || die "the first message is not known any more"

say "down"
clean
for kind in "ps -a" "volume ls" "network ls"; do
  # shellcheck disable=SC2086
  left=$(docker $kind -q --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME")
  [ -z "$left" ] || die "left behind ($kind): $left"
done
docker image ls -q --filter "reference=sotto/*:$SOTTO_VERSION" | sort -u | xargs -r docker image rm -f >/dev/null
docker image ls -q --filter label=sotto.stand-in=true | sort -u | xargs -r docker image rm -f >/dev/null
say "done"
