#!/usr/bin/env bash
# The whole test suite on a fresh clone: sets up, builds, checks and runs every test, real boots included.
#
# usage: scripts/test.sh
source "$(dirname "$0")/lib/common.sh"
cd "$REPO"

# stage NAME COMMAND…: a heading, the command's own output, and how long it took.
started=$SECONDS
stage() {
  local name=$1 from=$SECONDS
  shift
  printf '\n=== %s\n' "$name" >&2
  if ! "$@"; then
    printf '=== %s: FAILED after %d s\n' "$name" $((SECONDS - from)) >&2
    exit 1
  fi
  printf '=== %s: %d s\n' "$name" $((SECONDS - from)) >&2
}

scripts() {
  local script
  for script in scripts/*.sh scripts/lib/*.sh .ci/run; do
    bash -n "$script" || return 1
  done
  ! have shellcheck || shellcheck scripts/*.sh scripts/lib/*.sh .ci/run
}
newer_nix() { MVM_TEST_NIX_NEWER=$("$REPO/scripts/get-newer-nix.sh" trixie "$DEV_CACHE/nix-trixie"); }
own_kernel() { MVM_TEST_KERNEL_OWN=$("$REPO/scripts/build-kernel.sh"); }
guest() { MVM_GUEST=$("$REPO/scripts/build-guest.sh"); }

stage "set up this machine" "$REPO/scripts/dev-setup.sh" test
need_cargo
stage "a newer Nix (Debian trixie's)" newer_nix
stage "a guest kernel of our own" own_kernel
MVM_TEST_KERNEL_STOCK=$(stock_kernel "$CPU")
export MVM_TEST_NIX_NEWER MVM_TEST_KERNEL_OWN MVM_TEST_KERNEL_STOCK
# The Nix that tests call must not depend on this machine's /etc/nix, which may not exist.
nix_environment

stage "scripts" scripts
stage "the Nix side" "$REPO/scripts/check-nix.sh"
stage "format" cargo fmt --all --check
stage "the guest program" guest
export MVM_GUEST
stage "lint" cargo clippy --quiet --workspace --all-targets --locked -- -D warnings
# About five minutes where the toolchain has to be made first, so only where somebody has made it.
stage "lint for macOS" "$REPO/scripts/check-darwin.sh" --cached
stage "tests" cargo nextest run --workspace --locked --no-fail-fast
stage "doc tests" cargo test --quiet --workspace --doc --locked
printf '\nall passed in %d s\n' $((SECONDS - started)) >&2
