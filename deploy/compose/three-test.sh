#!/usr/bin/env bash
# `make compose-three-test`: the cell of docker-compose.yml with deploy/compose/three.yml, from nothing to nothing, under load all the while. A broker
# dies, another one is cut off, Redis fails over by hand, more than once, and every program is exchanged for one of another image. What the carrier got is counted by the
# carrier (the simulator). Needs what test.sh needs; leaves nothing behind but built programs.
set -euo pipefail
cd "$(dirname "$0")/../.."
NAME=sotto-compose-three-test
COMPOSE_FILE=docker-compose.yml:deploy/compose/three.yml
PROGRAMS=(privacy identity audit routing carrier ingress)
BROKERS=(nats nats-2 nats-3)
# A steady trickle: what takes time here is the cell's own.
WORKERS=2
SERVICES=("${BROKERS[@]}" redis redis-2 simulator "${PROGRAMS[@]}")
# shellcheck source=deploy/compose/lib.sh
. deploy/compose/lib.sh

say "images: the programs, linked statically, and each once more under the tag of the next version"
clean
images
for program in sotto "${PROGRAMS[@]}"; do
  printf 'FROM sotto/%s:%s\nLABEL sotto.next=true\n' "$program" "$SOTTO_VERSION" |
    docker build -q -t "sotto/$program:$SOTTO_VERSION-next" - >"$work/build.log" 2>&1
done

say "up"
compose up -d >"$work/up.log" 2>&1
all_healthy
for service in routing carrier ingress; do [ "$(number_of "$service")" -eq 2 ] || die "there are not two of $service"; done
for service in "${SERVICES[@]}"; do confined "$service"; done

# Three copies of each stream, says the tool.
whole() { grep -q '^ok .*three copies of each stream$' <<<"$(tool doctor 2>&1)"; }
# The broker that decides about the log, as the broker of SERVICE sees it.
leader() {
  local number
  number=$(docker exec "$(first "$1")" wget -q -O - "http://127.0.0.1:8222/jsz?accounts=true&streams=true" |
    tr -d ' \n' | sed -n 's/.*"name":"VN_EVENTS",[^}]*"leader":"vn-\([123]\)".*/\1/p')
  [ -n "$number" ] && echo "${BROKERS[$((number - 1))]}"
}
# leads_other THAN: another broker than this one decides about the log, as the others see it.
leads_other() {
  local broker now
  for broker in "${BROKERS[@]}"; do
    [ "$broker" != "$1" ] || continue
    now=$(leader "$broker") || return 1
    [ -n "$now" ] && [ "$now" != "$1" ] || return 1
  done
}
# redis_is SERVICE LINE: what a Redis server says of itself.
redis_is() { grep -q "^$2" <<<"$(docker exec "$(first "$1")" sh /redis.sh state 2>&1)"; }
both_bound() { [ "$(count links)" -eq 2 ]; }
# delivering N: the carrier got so many parts.
delivering() { [ "$(count parts)" -ge "$1" ]; }
# goes_on N: so many more are accepted, and so many more reach the carrier.
goes_on() {
  local parts
  parts=$(count parts)
  more "$1"
  wait_for 120 "$1 more parts to reach the carrier" delivering $((parts + $1))
}

say "three brokers that sync before they acknowledge, and two Redis servers of which one copies the other"
for broker in "${BROKERS[@]}"; do
  conf=$(docker cp "$(first "$broker"):/cell/nats" - | tar -xO --wildcards 'nats/nats-*.conf')
  grep -q '^  sync_interval: always$' <<<"$conf" || die "$broker does not sync before it acknowledges"
done
wait_for 60 "the standing-by Redis to copy" redis_is redis-2 master_link_status:up
redis_is redis role:master || die "the first Redis does not lead"
wait_for 60 "both connectors to be bound" both_bound

say "the steps that are printed: an owner, a client, a message"
first_message
sotto doctor

say "load, until the end"
start_load 1000000
goes_on 10
wait_for 60 "three copies of each stream" whole

say "the broker that decides about the log dies"
victim=$(leader nats)
docker kill -s KILL "$(first "$victim")" >/dev/null
tell "$victim is killed"
wait_for 60 "another broker to decide" leads_other "$victim"
goes_on 20
docker start "$(first "$victim")" >/dev/null
wait_for 120 "three copies of each stream" whole
tell "$victim is back, with three copies of each stream"

say "the broker that decides about the log is cut off from everybody"
victim=$(leader nats)
docker network disconnect "${COMPOSE_PROJECT_NAME}_cell" "$(first "$victim")"
tell "$victim is cut off"
wait_for 60 "another broker to decide" leads_other "$victim"
goes_on 20
number=${victim#nats} number=${number#-}
docker network connect --alias "$victim" --alias "nats-${number:-1}.sotto.internal" "${COMPOSE_PROJECT_NAME}_cell" "$(first "$victim")"
wait_for 120 "three copies of each stream" whole
tell "$victim is back, with three copies of each stream"

say "Redis fails over, by hand"
refused=$(docker exec "$(first redis-2)" sh /redis.sh lead 2>&1) && die "the second Redis leads beside the first"
grep -q 'stop it first' <<<"$refused" || die "the second Redis refuses to lead for another reason: $refused"
compose stop redis >"$work/redis.log" 2>&1
tell "the Redis that leads is stopped"
docker exec "$(first redis-2)" sh /redis.sh lead >/dev/null
tell "the other one leads"
redis_is redis-2 role:master || die "the second Redis does not lead"
goes_on 20
compose start redis >"$work/redis.log" 2>&1
wait_for 60 "the first Redis to copy the second" redis_is redis master_link_status:up
redis_is redis role:slave || die "the first Redis leads again"
tell "the first one stands by"

say "the Redis that leads is restarted, and leads again: the other stands by"
docker restart -t 10 "$(first redis-2)" >/dev/null
wait_for 60 "the second Redis to lead again" redis_is redis-2 role:master
goes_on 10

say "both Redis start at once after a fail-over, and neither leads by itself"
wait_for 60 "the first Redis to copy the second" redis_is redis master_link_status:up
docker kill -s KILL "$(first redis-2)" >/dev/null
docker exec "$(first redis)" sh /redis.sh lead >/dev/null
redis_is redis role:master || die "the first Redis does not lead"
docker kill -s KILL "$(first redis)" >/dev/null
# Each led when it was last seen.
since=$(date +%s)
docker start "$(first redis)" "$(first redis-2)" >/dev/null
waits() { grep -q 'It waits for it' <<<"$(docker logs --since "$since" "$(first "$1")" 2>&1)"; }
for server in redis redis-2; do
  wait_for 30 "$server to say that it waits" waits "$server"
  ! docker exec "$(first "$server")" sh /redis.sh state >/dev/null 2>&1 || die "$server runs, and cannot know whether the other leads"
done
docker exec "$(first redis-2)" sh /redis.sh lead
wait_for 60 "the first Redis to copy the second" redis_is redis master_link_status:up
redis_is redis-2 role:master || die "the second Redis does not lead"
tell "the second one leads, by somebody's word"
goes_on 10

say "every program is exchanged for the next version, one container after the other"
SOTTO_VERSION=$NAME-next
deploy/compose/roll.sh "${PROGRAMS[@]}"
for service in "${PROGRAMS[@]}"; do
  for id in $(containers "$service"); do
    [ "$(inspect "$id" '{{index .Config.Labels "sotto.next"}}')" = true ] || die "$service was not exchanged"
  done
done
tell "all are exchanged"
compose up -d init provision >"$work/provision.log" 2>&1
provisioned() { [ "$(inspect "$(first provision)" '{{.State.Running}} {{.State.ExitCode}}')" = "false 0" ]; }
wait_for 60 "the list of streams of the next version" provisioned
goes_on 10

say "a broker is exchanged"
deploy/compose/roll.sh nats-3
goes_on 10
enough_load
end_load

say "nothing is lost, nothing twice"
# A connector whose broker was gone may have lost its binds, with what was on the wire: no more is under way than there are senders. Whoever was exchanged
# finished what it had.
balance $((MESSAGES + 1)) $((2 * WORKERS))
all_healthy
wait_for 60 "three copies of each stream" whole
sotto doctor
sotto audit verify

say "down"
SOTTO_VERSION=$NAME
down
