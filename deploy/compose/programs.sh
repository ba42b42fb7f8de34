#!/usr/bin/env bash
# Builds the programs as they are put into images, and the folders of an image's root: programs.sh FOLDER
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: programs.sh FOLDER" >&2; exit 64; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
PATH="$HOME/.cargo/bin:$PATH"

programs=(sotto sotto-ingress sotto-routing sotto-carrier sotto-identity sotto-privacy sotto-audit sotto-simulator)
packages=(cli ingress routing carrier identity privacy audit simulator)
# glibc, linked in: no second toolchain, its allocator, and host names still go by its own resolver. With the target named,
# the flag is not for build scripts and macros, which cannot be static.
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="-C target-feature=+crt-static" cargo build --profile image --locked --bins --target "$host" \
  "${packages[@]/#/--package=sotto-}"
for program in "${programs[@]}"; do
  install -m 755 "${CARGO_TARGET_DIR:-target}/$host/image/$program" "$out/$program"
  if grep -q '=>' <<<"$(ldd "$out/$program" 2>&1)"; then
    echo "$program is not static" >&2
    exit 1
  fi
done
# Where volumes are mounted: the cell's folder, or a process's share of it, and for the tool the shares of all.
for folder in cell shares/{nats,redis,simulator,ingress,routing,carrier,identity,privacy,audit}; do
  install -d -m 700 "$out/root/$folder"
done
