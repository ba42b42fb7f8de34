#!/usr/bin/env bash
# All that CI runs, in the order in which it fails fastest. With an argument, one stage: lint, unit or e2e.
set -euo pipefail
cd "$(dirname "$0")/.."
# rustup and what setup.sh installs need no change of anybody's shell.
PATH="$HOME/.cargo/bin:$PWD/.tools/bin:$PATH"
export PATH CARGO_TERM_PROGRESS_WHEN=never

stage() { printf '\n== %s\n' "$*"; }
# Nothing is built twice there, so keeping what a second build would reuse only costs.
[ "${CI:-}" != true ] || export CARGO_INCREMENTAL=0
profile=$([ "${CI:-}" = true ] && echo ci || echo default)

lint() {
  stage "formatting"
  cargo fmt --all --check
  stage "protocol files (buf lint)"
  (cd proto && buf lint)
  stage "protocol files against those of the last release (buf breaking)"
  deploy/tools/breaking.sh
  stage "Kubernetes objects"
  python deploy/kubernetes/check.py
  stage "lints (clippy)"
  cargo clippy --workspace --all-targets --locked -- -D warnings
  stage "dependencies (cargo deny)"
  cargo deny --log-level error check bans licenses sources
  stage "documentation builds"
  RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet
}

unit() {
  stage "programs"
  cargo build --workspace --locked
  stage "tests of each crate"
  cargo nextest run --workspace --locked --profile "$profile" -E 'not (package(sotto-tests) and binary(e2e))'
  stage "examples in the documentation"
  cargo test --workspace --locked --doc --quiet
}

e2e() {
  stage "programs"
  cargo build --workspace --locked
  stage "a cell as Kubernetes would mount it"
  python deploy/kubernetes/check_cell.py target/debug
  stage "whole cells"
  # The whole workspace, so that features, and with them the programs under test, are those of the stage before.
  cargo nextest run --workspace --locked --profile "$profile" -E 'package(sotto-tests) and binary(e2e)'
}

case "${1:-all}" in
  lint) lint ;;
  unit) unit ;;
  e2e) e2e ;;
  all)
    lint
    unit
    e2e
    ;;
  *)
    echo "usage: deploy/test.sh [lint|unit|e2e]" >&2
    exit 64
    ;;
esac
