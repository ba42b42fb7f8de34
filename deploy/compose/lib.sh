# What the tests in containers share: test.sh, hsm-test.sh and three-test.sh read it in, after they have set NAME (of the Compose project),
# COMPOSE_FILE and SERVICES (whose health is waited for).
# shellcheck shell=bash disable=SC2034
root=$PWD
PATH="$HOME/.cargo/bin:$root/.tools/bin:$PATH"

export COMPOSE_PROJECT_NAME=$NAME COMPOSE_FILE
export SOTTO_VERSION=$NAME SOTTO_CELL=vn
# Ports of this machine, out of the way of a cell that runs here.
export SOTTO_TOKEN_PORT=17444 SOTTO_INGRESS_PORTS=17450-17459 SOTTO_PROMETHEUS_PORT=17490
# Docker's own builder, which every engine has.
export DOCKER_BUILDKIT=0
if docker compose version >/dev/null 2>&1; then compose() { docker compose "$@"; }; else compose() { docker-compose "$@"; }; fi
command -v docker-compose >/dev/null 2>&1 || docker compose version >/dev/null 2>&1 || { echo "no Compose tool: apt-get install docker-compose" >&2; exit 1; }
docker info >/dev/null || { echo "no Docker here" >&2; exit 1; }

work=$(mktemp -d)
runner=$NAME-runner
load=
say() { printf '\n== %s s: %s\n' "$SECONDS" "$*"; }
die() { echo "$NAME: $*" >&2; exit 1; }

clean() {
  docker rm -f "$runner" >/dev/null 2>&1 || true
  compose --profile tool --profile telemetry down -v --remove-orphans -t 45 >"$work/down.log" 2>&1
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
# Also those that have stopped. Compose takes seconds to tell the same on a busy machine.
containers() {
  docker ps -aq --no-trunc --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" \
    --filter "label=com.docker.compose.service=$1" --filter label=com.docker.compose.oneoff=False
}
first() { containers "$1" | sed -n 1p; }
healthy() {
  local id
  for id in $(containers "$1"); do [ "$(inspect "$id" '{{.State.Health.Status}}')" = healthy ] || return 1; done
}
all_healthy() { for service in "${SERVICES[@]}"; do wait_for 60 "$service" healthy "$service"; done; }
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

# The last stage of the Dockerfile, on programs that are built outside of it: image NAME PROGRAM FOLDER
image() {
  local size
  sed -n '/^FROM scratch/,$p' deploy/Dockerfile | sed 's/--from=build //; s# /out/# #' >"$work/Dockerfile"
  docker build -q --build-arg PROGRAM="$2" -t "sotto/$1:$SOTTO_VERSION" -f "$work/Dockerfile" "$3" >"$work/build.log" 2>&1
  size=$(docker image inspect -f '{{.Size}}' "sotto/$1:$SOTTO_VERSION")
  printf '%s %s MB\n' "$1" $((size / 1000000))
  [ "$size" -lt 40000000 ] || die "the image of $1 has $size bytes"
}
# Built for the test: with less optimisation, and so larger and slower than what users build.
programs() { CARGO_PROFILE_IMAGE_LTO=off CARGO_PROFILE_IMAGE_OPT_LEVEL=1 deploy/compose/programs.sh "$@"; }
images() {
  local program
  programs target/images
  for program in sotto sotto-simulator sotto-ingress sotto-routing sotto-carrier sotto-identity sotto-privacy sotto-audit; do
    image "${program#sotto-}" "$program" target/images
  done
  deploy/compose/stand-ins.sh
}

# The steps that are printed: an owner, a client, a message. Leaves its id in $id.
first_message() {
  sotto owner claim
  sotto client create --name shop --tenant acme --sender ACMEBANK
  id=$(printf '+84912345678\nYour code is 482913' |
    sotto --json send --client shop --from ACMEBANK --class otp --to - --text - | field message_id)
  [ -n "$id" ] || die "the message was not accepted"
  local shown
  shown=$(sotto message show "$id" --client shop --wait 30)
  echo "$shown"
  grep -q "delivered" <<<"$shown" || die "the message was not delivered"
}

# confined SERVICE: that its first container may do no more than it must.
confined() {
  local id told state
  id=$(first "$1")
  told=$(inspect "$id" '{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}}')
  [ "$told" = "65532:65532 true [ALL] [no-new-privileges:true]" ] || die "$1: $told"
  told=$(inspect "$id" '{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}')
  grep -Eq '^([1-9][0-9]*) \1 [1-9][0-9]* [1-9][0-9]*$' <<<"$told" || die "$1 has no limits: $told"
  state=$(grep -E '^(CapEff|NoNewPrivs|Uid)' "/proc/$(inspect "$id" '{{.State.Pid}}')/status" | tr -s '\t\n' ' ')
  [ "$state" = "Uid: 65532 65532 65532 65532 CapEff: 0000000000000000 NoNewPrivs: 1 " ] || die "$1: $state"
}

# The tool inside of the container that watches while there is load.
tool() { docker exec -i "$runner" /program --cell /cell "$@"; }
# Load: start_load N sends N messages, or until enough_load, each to a number of its own, so that the carrier counts any that it
# gets twice.
WORKERS=${WORKERS:-4}
send() { # N: as the documentation asks: in doubt, again with the same key
  local until=$((SECONDS + 180))
  until printf '+8491%07d\nYour code is %06d' "$1" "$1" |
    tool --json send --client shop --from ACMEBANK --class otp --to - --text - \
      --idempotency-key "load-$1" >>"$work/accepted" 2>"$work/refused.$2"; do
    # Given up, or the test is over.
    [ "$SECONDS" -lt "$until" ] && [ -f "$work/accepted" ] || return 1
  done
}
worker() {
  for ((n = $1; n < MESSAGES; n += WORKERS)); do
    [ ! -e "$work/enough" ] || return 0
    send "$n" "$1" || return 1
  done
}
workers() {
  local pids=() pid
  for ((w = 0; w < WORKERS; w++)); do worker "$w" & pids+=($!); done
  for pid in "${pids[@]}"; do wait "$pid" || return 1; done
}
start_load() {
  MESSAGES=$1
  # Watches until it is told to end: a container of the tool to run more in.
  compose run -d --name "$runner" sotto watch --client shop >/dev/null
  : >"$work/accepted"
  workers &
  load=$!
}
sent() { wc -l <"$work/accepted"; }
accepted() { [ "$(sent)" -ge "$1" ] || ! kill -0 "$load" 2>/dev/null; }
# at PARTS OF: when so much of the load is accepted.
at() { wait_for 240 "messages to be accepted" accepted $((MESSAGES * $1 / $2)); }
enough_load() { : >"$work/enough"; }
# more N: waits until so many more are accepted.
more() { wait_for 120 "$1 more messages to be accepted" accepted $(($(sent) + $1)); }
tell() { echo "at $SECONDS s, $(sent) accepted: $*"; }
end_load() {
  wait "$load" || die "a message was not accepted within three minutes: $(cat "$work"/refused.*)"
  load=
  [ ! -e "$work/enough" ] || MESSAGES=$(sent)
  [ "$(sed -n 's/.*"message_id":"\([^"]*\)".*/\1/p' "$work/accepted" | sort -u | wc -l)" -eq "$MESSAGES" ] ||
    die "not every message has an id of its own"
}
# balance ALL DOUBT: every message is delivered, or among the few in doubt, and the carrier got none twice.
ended() {
  sotto --json ledger check >"$work/ledger" 2>"$work/ledger.log" || return 1
  delivered=$(field delivered <"$work/ledger") doubt=$(field in_flight <"$work/ledger")
  [ "$(field accepted <"$work/ledger")" -eq "$1" ] && [ $((delivered + doubt)) -eq "$1" ] && [ "$doubt" -le "$2" ]
}
balance() {
  local parts duplicates
  wait_for 180 "every message to be delivered, or in doubt after the kill of its connector" ended "$1" "$2"
  cat "$work/ledger"
  parts=$(count parts) duplicates=$(count duplicates)
  echo "the carrier got $parts parts, $duplicates twice; $doubt of $1 in doubt"
  [ "$duplicates" -eq 0 ] || die "$duplicates parts were sent twice"
  [ "$parts" -le "$1" ] && [ "$parts" -ge $(($1 - doubt)) ] || die "$parts parts for $1 messages, $doubt in doubt"
}

# Takes all away, and looks for what is left.
down() {
  local kind left
  clean
  for kind in "ps -a" "volume ls" "network ls"; do
    # shellcheck disable=SC2086
    left=$(docker $kind -q --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME")
    [ -z "$left" ] || die "left behind ($kind): $left"
  done
  # By name: one may be made from another.
  docker image ls --format '{{.Repository}}:{{.Tag}}' --filter "reference=sotto/*:$SOTTO_VERSION*" | xargs -r docker image rm -f >/dev/null
  docker image ls -q --filter label=sotto.stand-in=true | sort -u | xargs -r docker image rm -f >/dev/null
  say "done"
}
