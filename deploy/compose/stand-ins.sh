#!/usr/bin/env bash
# Where the public images of docker-compose.yml cannot be pulled: builds what stands in for them, under their names, from
# this machine's nats-server and redis-server, Debian's prometheus and its static busybox. For tests only; labelled sotto.stand-in.
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH="$PWD/.tools/bin:$PATH"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

wanted() { sed -n "s#^ *image: \($1:[^ ]*\)\$#\1#p" docker-compose.yml; }
here() { docker image inspect "$1" >/dev/null 2>&1 || timeout 60 docker pull -q "$1" >/dev/null 2>&1; }

# unpacked PACKAGE: where a package of Debian's is unpacked.
unpacked() {
  if [ ! -d "$work/deb/$1" ]; then
    # A folder that apt's own user may write to.
    chmod 755 "$work"
    install -d -m 777 "$work/deb" "$work/deb/$1"
    (cd "$work/deb/$1" && apt-get download -qq "$1" >&2 && dpkg -x ./"$1"_*.deb .)
  fi
  echo "$work/deb/$1"
}

busybox() {
  mkdir -p "$1/bin"
  cp "$(unpacked busybox-static)/bin/busybox" "$1/bin/busybox"
  for tool in sh grep wget cat mv rm sleep timeout; do ln -s busybox "$1/bin/$tool"; done
}

# program ROOT NAME [PATH]: a program with the libraries that it is linked to.
program() {
  local path
  path=${3:-$(command -v "$2")} || { echo "$2 is not on the PATH: make setup" >&2; exit 1; }
  install -D -m 755 "$path" "$1/usr/local/bin/$2"
  # A static one has none.
  { ldd "$path" 2>/dev/null || true; } | sed -n 's/.*[[:space:]]\(\/[^ ]*\) (0x.*/\1/p' | while read -r library; do
    install -D -m 755 "$library" "$1$library"
  done
}

image() { # NAME ROOT [LINE]: a further line of its Dockerfile
  printf 'FROM scratch\nLABEL sotto.stand-in=true\nCOPY . /\nENV PATH=/usr/local/bin:/bin\n%s\n' "${3:-}" >"$2.Dockerfile"
  DOCKER_BUILDKIT=0 docker build -q -t "$1" -f "$2.Dockerfile" "$2" >"$2.log" 2>&1 || { cat "$2.log" >&2; exit 1; }
  echo "$1: a stand-in, $(docker image inspect -f '{{.Size}}' "$1") bytes"
}

nats=$(wanted nats) redis=$(wanted redis) prometheus=$(wanted prom/prometheus)
if ! here "$nats"; then
  busybox "$work/nats"
  program "$work/nats" nats-server
  image "$nats" "$work/nats"
fi
if ! here "$redis"; then
  busybox "$work/redis"
  program "$work/redis" redis-server
  program "$work/redis" redis-cli
  image "$redis" "$work/redis"
fi
if ! here "$prometheus"; then
  busybox "$work/prometheus"
  program "$work/prometheus" prometheus "$(unpacked prometheus)/usr/bin/prometheus"
  ln -s ../usr/local/bin/prometheus "$work/prometheus/bin/prometheus"
  mkdir -p "$work/prometheus/volumes/prometheus"
  # Whose the volume is in the public image.
  image "$prometheus" "$work/prometheus" 'COPY --chown=65534:65534 volumes/ /'
fi
