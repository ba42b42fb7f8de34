#!/usr/bin/env bash
# `make compose-test`: the cell of docker-compose.yml, from nothing to nothing, with faults on the way. What the carrier got
# is counted by the carrier (the simulator). Needs Docker and the Compose tool; leaves nothing behind but built programs.
set -euo pipefail
cd "$(dirname "$0")/../.."
NAME=sotto-compose-test
COMPOSE_FILE=docker-compose.yml
SERVICES=(nats redis simulator ingress routing carrier identity privacy audit)
# shellcheck source=deploy/compose/lib.sh
. deploy/compose/lib.sh

say "images: the programs, linked statically"
clean
images

say "up"
compose up -d >"$work/up.log" 2>&1
all_healthy

say "what every container may do"
for service in "${SERVICES[@]}"; do
  confined "$service"
  id=$(first "$service")
  seen=$(inspect "$id" '{{range .Mounts}}{{.Name}} {{end}}')
  [ "$seen" = "${COMPOSE_PROJECT_NAME}_$service " ] || die "$service sees $seen"
  # Every key, nkey, keystore and password that it sees is its own; the test carrier's password has two ends.
  secrets=$(docker cp "$id:/cell" - | tar -t | grep -E '\.(key|seed|sks)$|/secrets/.')
  others=$(grep -vE "$service|^cell/secrets/simulator$|^cell/keystore/(buckets|receipts).sks$" <<<"$secrets" || true)
  grep -q "^cell/tls/$service.key$" <<<"$secrets" && [ -z "$others" ] || die "$service sees $others"
  ! grep -qE 'buckets|receipts' <<<"$secrets" || [ "$service" = privacy ] || die "$service sees the keys that die"
done

say "the steps that are printed: an owner, a client, a message"
first_message
id_shown=$id
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

say "Prometheus of the profile telemetry reads every replica"
compose --profile telemetry up -d --no-deps prometheus >"$work/prometheus.log" 2>&1
wait_for 60 prometheus healthy prometheus
prometheus() { docker exec "$(first prometheus)" wget -q -O - "http://127.0.0.1:9090/api/v1/$1"; }
# value QUERY: of the one series that a query tells.
value() { prometheus "query?query=$1" | sed -n 's/.*"value":\[[^,]*,"\([^"]*\)"\].*/\1/p'; }
# Nine: three services have two replicas.
all_up() { [ "$(value 'count(up==1)')" = 9 ] && [ "$(value 'count(up)')" = 9 ] && [ "$(value 'count(count+by(process)(up))')" = 6 ]; }
wait_for 60 "nine targets to be up" all_up
[ "$(value 'sum(sotto_ingress_accepted_total)')" = 1 ] || die "Prometheus does not know of the one message"
rules=$(cat deploy/prometheus/{sotto,containers}.rules.yml | grep -c '^ *- alert:')
evaluated() { [ "$(prometheus rules | grep -o '"health":"ok"' | wc -l)" -eq "$rules" ]; }
wait_for 60 "each of the $rules rules to be evaluated" evaluated
firing=$(prometheus alerts | sed 's/"state":"firing"/\n&\n/g' | grep -c '^"state":"firing"' || true)
[ "$firing" -eq 0 ] || die "$firing alerts of a cell that is well: $(prometheus alerts)"
told=$(inspect "$(first prometheus)" '{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{(index (index .NetworkSettings.Ports "9090/tcp") 0).HostIp}}')
[ "$told" = "true [ALL] 127.0.0.1" ] || die "prometheus: $told"
echo "nine targets are up, $rules rules loaded"

MESSAGES=${MESSAGES:-240}
say "$MESSAGES messages, and faults"
start_load "$MESSAGES"
for victim in routing carrier ingress; do
  case $victim in routing) at 1 6 ;; carrier) at 2 6 ;; ingress) at 3 6 ;; esac
  id=$(first "$victim")
  docker kill -s KILL "$id" >/dev/null
  tell "one of $victim is killed"
  eval "killed_$victim=$id"
done
at 4 6
compose restart -t 30 nats >"$work/restart.log" 2>&1
tell "the broker was restarted"
# shellcheck disable=SC2154
docker start "$killed_routing" "$killed_carrier" "$killed_ingress" >/dev/null
end_load

say "nothing is lost, nothing twice"
all=$((MESSAGES + 1))
balance "$all" 10
all_healthy
wait_for 60 "nine targets to be up again" all_up
sotto doctor
sotto audit verify

say "a service is gone: Prometheus says so, and what the runbook says brings it back"
alert='query?query=ALERTS%7Balertname=%22SottoServiceGone%22,alertstate=%22firing%22%7D'
gone() { grep -q '"process":"audit"' <<<"$(prometheus "$alert")"; }
over() { grep -q '"result":\[\]' <<<"$(prometheus "$alert")"; }
over || die "SottoServiceGone fires while all are there"
compose stop -t 45 audit >"$work/gone.log" 2>&1
wait_for 300 "SottoServiceGone to fire" gone
commands=$(sed -n '/^```sh SottoServiceGone$/,/^```$/p' docs/runbooks/not-listening.md | sed '1d;$d;s/SERVICE/audit/')
[ -n "$commands" ] || die "the runbook has no commands for SottoServiceGone"
echo "$commands"
eval "${commands//docker compose/compose}" >"$work/runbook.log" 2>&1
wait_for 120 "SottoServiceGone to be over" over
wait_for 60 "nine targets to be up once more" all_up

say "stopped and started again, it is the same cell, of one replica each"
docker rm -f "$runner" >/dev/null
compose --profile telemetry rm -s -f prometheus >"$work/prometheus.log" 2>&1
compose stop -t 45 >"$work/stop.log" 2>&1
for service in ingress routing carrier identity privacy audit; do
  for id in $(containers "$service"); do
    [ "$(inspect "$id" '{{.State.ExitCode}}')" -eq 0 ] || die "$service did not stop in order"
  done
done
compose up -d >"$work/again.log" 2>&1
all_healthy
grep -q "cell vn is there" <<<"$(compose logs --no-color init)" || die "init did not find the cell"
wait_for 60 "the ledger as it was" ended "$all" 10
grep -q delivered <<<"$(sotto message show "$id_shown" --client shop)" || die "the first message is not known any more"

say "the machine is lost: put back on another one, it is held until somebody lets it go"
compose stop -t 45 >"$work/stop.log" 2>&1
deploy/compose/backup.sh take "$work/kept" "$work/apart"
! deploy/compose/backup.sh put "$work/kept" "$work/apart" 2>"$work/refused.log" || die "a cell was put over another one"
grep -q "there is a cell" "$work/refused.log" || die "$(cat "$work/refused.log")"
# What opens the cell is in the one folder alone.
! for archive in "$work"/kept/*.tar; do tar -tf "$archive"; done | grep -E 'secrets|\.key$|\.seed$|buckets' || die "what opens it is beside it"
clean
deploy/compose/backup.sh put "$work/kept" "$work/apart"
compose up -d >"$work/back.log" 2>&1
all_healthy
grep -q "put back from a backup" <<<"$(sotto doctor || true)" || die "doctor does not say that the cell is held"
! sotto send --client shop --from ACMEBANK --class otp --to +84912345679 --text no 2>"$work/refused.log" || die "it takes messages while it is held"
[ "$(count parts)" -eq 0 ] || die "something was sent by itself"
sotto release --reason "a lost machine"
taken() { sotto --json send --client shop --from ACMEBANK --class otp --to +84912345679 --text "Your code is 482914" >"$work/taken" 2>&1; }
wait_for 60 "messages to be taken again" taken
id=$(field message_id <"$work/taken")
grep -q delivered <<<"$(sotto message show "$id" --client shop --wait 30)" || die "a message after the restoration was not delivered"
# What was in doubt at the backup ends as unknown, and nothing is sent twice.
known() {
  sotto --json ledger check >"$work/ledger" 2>"$work/ledger.log" &&
    [ "$(field accepted <"$work/ledger")" -eq $((all + 1)) ] && [ "$(field waiting <"$work/ledger")" -eq 0 ]
}
wait_for 60 "the ledger as it was, and one" known
grep -q delivered <<<"$(sotto message show "$id_shown" --client shop)" || die "the first message is not known any more"
[ "$(count parts)" -eq 1 ] || die "more was sent than the one message"
sotto audit verify
sotto doctor

say "down"
down
