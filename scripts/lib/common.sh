# What every script here starts from: strict mode, the paths, messages and the toolchain. Sourced, never run.
# shellcheck shell=bash disable=SC2034 # its variables are used by those who source it
set -euo pipefail

# The clone, wherever the script was called from.
REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# Where mvmctl keeps what can be made again; the same rule as the program's.
CACHE=${MVM_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/mvm}
# Guest kernels, one folder each.
KERNELS=$CACHE/kernels
# Things only developers and tests need.
DEV_CACHE=$CACHE/dev
# The machine's CPU under the names that Rust, Debian and the kernel's makefiles use.
CPU=$(uname -m)
case $CPU in
  x86_64 | amd64) CPU=x86_64 DEB_ARCH=amd64 ;;
  aarch64 | arm64) CPU=aarch64 DEB_ARCH=arm64 ;;
  *) DEB_ARCH=unknown ;;
esac

# `cargo install` puts programs here; mke2fs lives in sbin, which Debian leaves out of a user's PATH.
PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH

say() { printf '%s\n' "$*" >&2; }
step() { printf '==> %s\n' "$*" >&2; }
die() {
  printf 'error: %s\n' "$1" >&2
  [ $# -lt 2 ] || printf 'hint: %s\n' "$2" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Runs a command as root: directly, or through sudo.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif have sudo; then
    sudo "$@"
  else
    die "root is needed for: $*" "install sudo, or run this script as root once"
  fi
}

# True when FILE is an ELF program that needs no dynamic loader.
is_static() {
  local headers
  headers=$(LC_ALL=C readelf -lW "$1" 2>/dev/null) || return 1
  [ -n "$headers" ] && [[ $headers != *INTERP* ]]
}

# Makes sure that cargo works. rustup's proxies look for their toolchains under $HOME; when HOME is another one than at
# installation (a CI job with an empty HOME), the toolchains still lie beside the proxy's own folder.
need_cargo() {
  local proxy home
  have cargo || die "cargo is not on PATH" "install Rust from https://rustup.rs, then run this script again"
  cargo --version >/dev/null 2>&1 && return
  proxy=$(command -v cargo)
  home=$(dirname "$(dirname "$(dirname "$proxy")")")/.rustup
  if [ -z "${RUSTUP_HOME:-}" ] && [ -d "$home" ]; then
    export RUSTUP_HOME=$home
  fi
  cargo --version >/dev/null || die "cargo is there but does not run" "run \`rustup default stable\`"
}

# Nix as a plain user or root sees it in a container: no /etc/nix, no build users, no network registry.
nix_environment() {
  export NIX_CONFIG="experimental-features = nix-command flakes
build-users-group =
substituters =
flake-registry =
warn-dirty = false
${NIX_CONFIG:-}"
}

# The folder of Debian's kernel for CPU $1, newest first, or nothing.
stock_kernel() {
  local folder
  for folder in $(printf '%s\n' "$KERNELS"/debian-*-"$(deb_arch "$1")" | sort -rV); do
    if compgen -G "$folder/boot/vmlinuz-*" >/dev/null; then
      printf '%s\n' "$folder"
      return
    fi
  done
}

# Debian's name of a CPU.
deb_arch() {
  case $1 in
    x86_64) echo amd64 ;;
    aarch64) echo arm64 ;;
    *) die "no guest kernel for CPU '$1'" "x86_64 and aarch64 are known" ;;
  esac
}
