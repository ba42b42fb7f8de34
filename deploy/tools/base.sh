#!/bin/sh
# Builds the programs of another revision into target/base/build/debug, for `make torture-upgrade`.
set -eu
base=${1:?"which revision? make torture-upgrade BASE=<revision before>"}
revision=$(git rev-parse --verify "$base^{commit}")
tree=target/base/tree
if [ -e "$tree/.git" ]; then
    git -C "$tree" checkout --quiet --detach "$revision"
else
    git worktree prune
    git worktree add --quiet --detach "$tree" "$revision"
fi
echo "building the programs of $base ($revision)"
cargo build --manifest-path "$tree/Cargo.toml" --target-dir target/base/build --workspace --exclude sotto-tests \
    --exclude sotto-testkit --exclude sotto-benches --locked
