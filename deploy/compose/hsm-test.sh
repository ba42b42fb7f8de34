#!/usr/bin/env bash
# `make compose-test`, its second half: the cell of docker-compose.yml with deploy/compose/hsm.yml, from nothing to nothing. A message passes, and the
# keys that it hangs on are in a token and cannot leave it. Needs what test.sh needs, and softhsm2.
set -euo pipefail
cd "$(dirname "$0")/../.."
NAME=sotto-compose-hsm-test
COMPOSE_FILE=docker-compose.yml:deploy/compose/hsm.yml
SERVICES=(nats redis simulator ingress routing carrier identity privacy audit)
# shellcheck source=deploy/compose/lib.sh
. deploy/compose/lib.sh
command -v softhsm2-dump-file >/dev/null 2>&1 || { echo "no SoftHSM2: apt-get install softhsm2" >&2; exit 1; }

say "images: the programs, and privacy with SoftHSM2"
clean
images
programs target/images-softhsm softhsm
image privacy-softhsm sotto-privacy target/images-softhsm
image token sotto-token target/images-softhsm

# privacy's folder of tokens, as it is now.
tokens() {
  rm -rf "$work/privacy"
  mkdir "$work/privacy"
  docker cp "$(first privacy):/cell" - | tar -x -C "$work/privacy"
}
# How many keys that are neither to be shown nor to be taken out, and how many others.
count_keys() {
  local object text
  inside=0 outside=0
  while read -r object; do
    text=$(softhsm2-dump-file "$object") || true
    [ -n "$text" ] || die "$object cannot be read"
    # A secret or a private key.
    grep -qE 'CKO_(SECRET|PRIVATE)_KEY' <<<"$text" || continue
    if [ "$(truth EXTRACTABLE "$text") $(truth NEVER_EXTRACTABLE "$text") $(truth SENSITIVE "$text")" = "FALSE TRUE TRUE" ]; then
      inside=$((inside + 1))
    else
      outside=$((outside + 1))
    fi
  done < <(find "$work/privacy/cell/hsm/tokens" -name '*.object' ! -name token.object)
}
# truth ATTRIBUTE TEXT: TRUE or FALSE, two lines below the name.
truth() { sed -n "/ CKA_$1\$/{n;n;s/.* //p}" <<<"$2"; }

say "up"
compose up -d >"$work/up.log" 2>&1
all_healthy
grep -q "the token is made" <<<"$(compose logs --no-color token)" || die "the token was not made"

say "privacy has a token and no file of keys"
tokens
[ -z "$(find "$work/privacy" -name '*.sks' -o -name 'unlock-*')" ] || die "privacy has a keystore in a file"
[ -z "$(find "$work/privacy" -name '*officer*')" ] || die "privacy has the PIN of the token's officer"
[ -d "$work/privacy/cell/hsm/tokens" ] || die "privacy has no token"
[ "$(docker inspect -f '{{.Config.Image}}' "$(first privacy)")" = "sotto/privacy-softhsm:$SOTTO_VERSION" ] || die "privacy's image is another"

say "a message"
first_message
first_id=$id
tokens
count_keys
echo "$inside keys cannot leave the token, $outside could"
[ "$inside" -ge 2 ] && [ "$outside" -eq 0 ] || die "keys in the token: $inside that cannot leave it, $outside that can"

say "stopped and started again: the same token"
compose stop -t 45 >"$work/stop.log" 2>&1
compose up -d >"$work/again.log" 2>&1
all_healthy
grep -q "the token was made before" <<<"$(compose logs --no-color token)" || die "the token was made anew"
id=$(printf '+84912345679\nYour code is 482914' |
  sotto --json send --client shop --from ACMEBANK --class otp --to - --text - | field message_id)
grep -q delivered <<<"$(sotto message show "$id" --client shop --wait 30)" || die "the second message was not delivered"
grep -q delivered <<<"$(sotto message show "$first_id" --client shop)" || die "the first message is not known any more"
sotto doctor
sotto audit verify

say "a token that is lost is not made anew"
compose stop -t 45 privacy >"$work/stop.log" 2>&1
# As a disk would lose it.
docker run --rm --user 0:0 --network none -v "${COMPOSE_PROJECT_NAME}_privacy:/v" --entrypoint /bin/sh redis:7.2-alpine -c '/bin/busybox rm -rf /v/hsm/tokens/*'
compose start token >"$work/again.log" 2>&1
token_ended() { [ "$(inspect "$(first token)" '{{.State.Running}}')" = false ]; }
wait_for 30 "the step that makes the token" token_ended
compose start privacy >"$work/again.log" 2>&1
gone() { grep -q 'keystore cannot be opened' <<<"$(compose logs --no-color --tail=20 privacy)"; }
wait_for 30 "privacy to say that its token is gone" gone

say "down"
down
