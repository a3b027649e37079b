#!/usr/bin/env bash
# Builds mvm-guest, the static program that is PID 1 and agent in every VM, and puts it where mvmctl looks for it.
#
# usage: scripts/build-guest.sh      prints the program's path
source "$(dirname "$0")/lib/common.sh"

[ "$(uname -s)" = Linux ] || die "mvm-guest is a Linux program" "on macOS it is built by Nix on a Linux builder"
need_cargo
cd "$REPO"

triple=$CPU-unknown-linux-gnu
target=${CARGO_TARGET_DIR:-$REPO/target}

# The flags go to this one target by name: plain RUSTFLAGS would throw away every host build in the shared folder.
flags=CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$triple")_RUSTFLAGS
# Signatures in plain integers: vector instructions are the slowest that an emulated CPU has, and a real one does not
# miss them.
export "$flags=-C target-feature=+crt-static --cfg curve25519_dalek_backend=\"serial\""
cargo build --quiet -p mvm-guest --profile guest --target "$triple" >&2

program=$target/$triple/guest/mvm-guest
is_static "$program" || die "$program is not statically linked" "readelf -lW shows an INTERP segment; check $flags"

# Next to mvmctl's folders, as in an installed tree: <prefix>/bin/mvmctl and <prefix>/libexec/mvm/mvm-guest; and beside
# mvmctl itself. A file in use keeps its content: the new one is renamed over it.
place() {
  local destination=$1
  cmp -s "$program" "$destination" && return
  mkdir -p "$(dirname "$destination")"
  cp "$program" "$destination.$$"
  mv -f "$destination.$$" "$destination"
}
place "$target/libexec/mvm/mvm-guest"
place "$target/debug/mvm-guest"
place "$target/release/mvm-guest"
printf '%s\n' "$target/libexec/mvm/mvm-guest"
