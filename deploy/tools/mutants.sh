#!/usr/bin/env bash
# Changes a crate's code in one place at a time and runs its tests each time: what no test notices is printed
# (docs/MUTATION.md). It takes minutes to hours, and is neither a part of `make setup` nor of `make test`.
# Usage: mutants.sh PACKAGE [cargo-mutants' arguments]
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH="$HOME/.cargo/bin:$PWD/.tools/bin:$PATH"
export PATH

VERSION=27.1.0
package=$1
shift
if ! command -v cargo-mutants >/dev/null 2>&1; then
  echo "== cargo-mutants (some minutes, into .tools/)"
  cargo install --quiet --locked --root .tools --version "$VERSION" cargo-mutants
fi
exec nice -n 19 cargo mutants --package "$package" --output target/mutants "$@"
