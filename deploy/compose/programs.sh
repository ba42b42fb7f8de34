#!/usr/bin/env bash
# Builds the programs as they are put into images, and the folders of an image's root: programs.sh FOLDER [softhsm]
# With softhsm: privacy and what makes its token, which load SoftHSM2 while they run and so cannot be static, with the
# libraries that this takes.
set -euo pipefail
[ $# -eq 1 ] || [ "${2:-}" = softhsm ] || { echo "usage: programs.sh FOLDER [softhsm]" >&2; exit 64; }
mkdir -p "$1"
out=$(cd "$1" && pwd) variant=${2:-}
cd "$(dirname "$0")/../.."
PATH="$HOME/.cargo/bin:$PATH"

# The libraries that a program or library is linked to, with the loader.
libraries() { ldd "$1" | sed -n 's/.*[[:space:]]\(\/[^ ]*\) (0x.*/\1/p'; }

# What every image has besides its program: folders, and libraries where a module is to be loaded.
rm -rf "$out/root"
mkdir "$out/root"
if [ "$variant" = softhsm ]; then
  programs=(sotto-privacy sotto-token)
  cargo build --profile image --locked --bins --package=sotto-privacy
  module=/usr/lib/softhsm/libsofthsm2.so
  [ -f "$module" ] || { echo "$module is missing: apt-get install softhsm2" >&2; exit 1; }
  install -D -m 644 "$module" "$out/root$module"
  for program in "${programs[@]}"; do
    install -m 755 "${CARGO_TARGET_DIR:-target}/image/$program" "$out/$program"
  done
  for user in "$module" "${programs[@]/#/$out/}"; do libraries "$user"; done | sort -u | while read -r library; do
    install -D -m 755 "$library" "$out/root$library"
  done
else
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
fi
# Where volumes are mounted: the cell's folder, or a process's share of it, and for the tool the shares of all.
for folder in cell shares/{nats,nats-1,nats-2,nats-3,redis,redis-2,simulator,ingress,routing,carrier,identity,privacy,officer,audit}; do
  install -d -m 700 "$out/root/$folder"
done
