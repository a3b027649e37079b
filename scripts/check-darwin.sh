#!/usr/bin/env bash
# Type-checks and lints for macOS what a Mac runs of mvm, on Linux: nothing is linked or run.
#
# usage: scripts/check-darwin.sh [--cached]
#   --cached  only where the toolchain is already there; else says so and ends well
#
# A toolchain that already knows the target (a Mac's, or `rustup target add aarch64-apple-darwin`) is used as it is.
# Elsewhere Debian's packages of rustc are unpacked, never installed, and its standard library is built from source once:
# minutes, and about 1 GB in the cache.
source "$(dirname "$0")/lib/common.sh"

case "${1:-}" in
  "") cached= ;;
  --cached) cached=1 ;;
  *) die "unknown argument '$1'" "usage: scripts/check-darwin.sh [--cached]" ;;
esac
need_cargo
target=aarch64-apple-darwin
toolchain=$DEV_CACHE/rust-darwin

# True when the rustc that cargo would call has a standard library for the target.
knows_target() {
  compgen -G "$("${RUSTC:-rustc}" --print sysroot)/lib/rustlib/$target/lib/libstd-*.rlib" >/dev/null
}

# Debian's security suite keeps one recent rustc for browsers, with the sources of exactly its standard library: others
# do not compile with it.
make_toolchain() {
  local work suite=bookworm-security deb rlibs
  [ "$DEB_ARCH" = amd64 ] && have dpkg-deb && have apt-get ||
    die "there is no standard library for $target here" "rustup target add $target"
  # shellcheck source=lib/apt.sh
  source "$REPO/scripts/lib/apt.sh"
  mkdir -p "$DEV_CACHE"
  work=$(mktemp -d "$toolchain.XXXXXX")
  # shellcheck disable=SC2064 # the folder of now
  trap "rm -rf '$work'" EXIT
  step "fetching rustc of $suite"
  private_apt "$work/apt" amd64 "$suite"
  local packages=(rustc-web rust-web-clippy libstd-rust-web-dev rust-web-src)
  mapfile -t -O "${#packages[@]}" packages < <(
    apt_depends libstd-rust-web-dev '^libstd-rust-web-[0-9.]+$'
    apt_depends "$(apt_depends libstd-rust-web-dev '^libstd-rust-web-[0-9.]+$')" '^libllvm'
  )
  mkdir "$work"/{debs,root}
  apt_fetch "$work/debs" "${packages[@]}"
  for deb in "$work"/debs/*.deb; do
    dpkg-deb -x "$deb" "$work/root"
  done
  rm -rf "$work"/{apt,debs}
  use_toolchain "$work"
  case "$("$RUSTC" --print sysroot)" in
    "$work"/*) ;;
    *) die "the unpacked rustc looks for its library elsewhere" ;;
  esac

  step "building the standard library for $target"
  mkdir -p "$work/empty/src"
  printf '[package]\nname = "empty"\nversion = "0.1.0"\nedition = "2024"\n[workspace]\n' >"$work/empty/Cargo.toml"
  : >"$work/empty/src/lib.rs"
  # Only here: what is checked sees no unstable flag.
  (cd "$work/empty" && RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$work/build cargo build --quiet --release --target "$target" \
    -Z build-std=std,panic_abort,panic_unwind,proc_macro,test)
  rlibs=$work/root/usr/lib/rustlib/$target/lib
  mkdir -p "$rlibs"
  find "$work/build/$target/release/deps" -name '*.rlib' ! -name 'libempty-*' -exec cp {} "$rlibs/" \;
  rm -rf "$work"/{build,empty} "$work/root/usr/share" "$work/root/usr/src"
  rm -rf "$toolchain"
  mv -T "$work" "$toolchain"
}

# use_toolchain DIR: what cargo calls from here on.
use_toolchain() {
  export RUSTC=$1/root/usr/bin/rustc LD_LIBRARY_PATH=$1/root/usr/lib/x86_64-linux-gnu
  clippy=$1/root/usr/bin/cargo-clippy
}

clippy="cargo-clippy"
if ! knows_target; then
  if [ ! -d "$toolchain" ]; then
    if [ -n "$cached" ]; then
      say "not checked for macOS: no toolchain for it; \`just check-darwin\` makes one, once"
      exit
    fi
    make_toolchain
  fi
  use_toolchain "$toolchain"
fi

# No C is compiled: blake3 takes its Rust code then.
export CARGO_FEATURE_NO_NEON=1
judge() { CARGO_TARGET_DIR=target/darwin "$clippy" clippy --quiet --locked --target "$target" "$@" -- -D warnings; }

cd "$REPO"
step "$("${RUSTC:-rustc}" --version), for $target"
# Linux only: what runs inside guests, what measures, and the tests that boot VMs.
judge --workspace --all-targets --exclude mvm-guest --exclude xtask --exclude mvm-bench-hello --exclude mvmctl
judge --package mvmctl
