#!/bin/sh
# One of the two Redis servers of deploy/compose/three.yml (docs/adr/0029). One leads, at port 6379, where services find it. The other stands by, at
# 6380: it copies the one that leads, and no service finds it. Which one this is stands in its volume.
#   redis.sh run     starts it. One that led before leads again only if the other stands by; if the other leads, it stands by itself
#   redis.sh lead    makes it the one that leads. Make sure first that the other is off: two that lead know nothing of one another
#   redis.sh state   says what it is, and how it stands with the other
# SOTTO_REDIS_OTHER is the other's name, SOTTO_REDIS_FIRST what this one is when its volume is new: leads or stands-by.
set -eu
LEADS=6379 STANDS_BY=6380
role=data/redis/role
# Somebody said that it is to lead, although the other cannot be seen.
told=data/redis/told
REDISCLI_AUTH=$(cat secrets/redis-replica)
export REDISCLI_AUTH

# Whether the other one answers at this port. Whatever it answers: it has a certificate of the cell, or the connection ends.
other_at() {
  timeout 3 redis-cli --no-auth-warning --user replica --tls --cacert tls/ca.pem --cert tls/redis.pem --key tls/redis.key \
    -h "$SOTTO_REDIS_OTHER" -p "$1" ping >/dev/null 2>&1
}
here() { redis-cli --no-auth-warning --user replica -s data/redis/redis.sock "$@"; }
keep() { echo "$1" >"$role.new" && mv "$role.new" "$role"; }

run() {
  # Told to stop while it waits: whoever is process 1 does not end by a signal that it does not handle.
  trap 'exit 143' TERM INT
  is=$(cat "$role" 2>/dev/null || echo "$SOTTO_REDIS_FIRST")
  waits=
  while [ "$is" = leads ]; do
    # While this one was away somebody made the other one lead.
    if other_at $LEADS; then is=stands-by; break; fi
    if other_at $STANDS_BY || [ -e "$told" ]; then break; fi
    [ -n "$waits" ] || echo "This server led before, and $SOTTO_REDIS_OTHER cannot be asked whether it leads now. It waits for it. If it is off for good: redis.sh lead"
    waits=yes
    sleep 1
  done
  keep "$is"
  rm -f "$told"
  umask 077
  # The password is in no command line. What is copied touches no disk at either end (docs/adr/0024).
  {
    echo "tls-replication yes"
    echo "masteruser replica"
    echo "masterauth $REDISCLI_AUTH"
    echo "repl-diskless-sync yes"
    echo "repl-diskless-load swapdb"
    if [ "$is" = leads ]; then
      echo "tls-port $LEADS"
    else
      echo "tls-port $STANDS_BY"
      echo "replicaof $SOTTO_REDIS_OTHER $LEADS"
    fi
  } >data/redis/role.conf
  echo "It $is."
  unset REDISCLI_AUTH
  # Read after redis.conf, and so from the folder that this one goes into.
  exec redis-server redis/redis.conf --include role.conf
}

lead() {
  if other_at $LEADS; then
    echo "$SOTTO_REDIS_OTHER leads: stop it first, and make sure that it stays off" >&2
    exit 1
  fi
  keep leads
  if here ping >/dev/null 2>&1; then
    here replicaof no one
    here config set tls-port $LEADS
  else
    : >"$told"
  fi
}

state() { here info replication | grep -E '^(role|connected_slaves|master_host|master_link_status|master_sync_in_progress):'; }

case "${1:-}" in
  run) run ;;
  lead) lead ;;
  state) state ;;
  *)
    echo "usage: redis.sh run|lead|state" >&2
    exit 64
    ;;
esac
