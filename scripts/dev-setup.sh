#!/usr/bin/env bash
# Installs what building, running and testing mvm needs and this machine lacks; does nothing, fast, when all is there.
#
# usage: scripts/dev-setup.sh [run|test|all] [--update]
#   run       what `mvmctl` needs to build and boot a microVM
#   test      … and what the test suite needs
#   all       … and what developers like to have (the default)
#   --update  look for a newer guest kernel even when one is there
source "$(dirname "$0")/lib/common.sh"

level=3 update=
for arg in "$@"; do
  case $arg in
    run) level=1 ;;
    test) level=2 ;;
    all) level=3 ;;
    --update) update=1 ;;
    *) die "unknown argument '$arg'" "usage: scripts/dev-setup.sh [run|test|all] [--update]" ;;
  esac
done

case $CPU in
  x86_64) qemu=qemu-system-x86_64 qemu_package=qemu-system-x86 ;;
  aarch64) qemu=qemu-system-aarch64 qemu_package=qemu-system-arm ;;
  *) die "this machine's CPU ($CPU) is not supported" "mvm runs on x86_64 and aarch64" ;;
esac

# Programs that come as Debian packages: level, program, package.
programs=(
  "1 $qemu $qemu_package"
  "1 nix nix-bin"
  "1 mke2fs e2fsprogs"
  "1 busybox busybox-static"
  "1 git git"
  "1 cc gcc"
  "1 readelf binutils"
  "1 python3 python3"
  "2 cpio cpio"
  "2 flock util-linux"
)
# Tests start a Docker of their own, which takes root.
[ "$(id -u)" != 0 ] || programs+=("2 dockerd docker.io")

# Packages whose program is missing, or is there but is not the kind we need.
missing_packages() {
  local row min program package
  for row in "${programs[@]}"; do
    read -r min program package <<<"$row"
    [ "$min" -le "$level" ] || continue
    if ! have "$program"; then
      echo "$package"
    elif [ "$program" = busybox ] && have readelf && ! is_static "$(command -v busybox)"; then
      echo "$package"
    fi
  done
}

# A crate's program, from source: cargo_program LEVEL PROGRAM CRATE [VERSION].
cargo_program() {
  local min=$1 program=$2 crate=$3 version=${4:-}
  [ "$min" -le "$level" ] || return 0
  have "$program" && return 0
  step "cargo install $crate${version:+ $version} (from source: this takes a minute or two)"
  # From / so that neither this workspace's settings nor its target folder take part.
  (cd / && env -u CARGO_TARGET_DIR cargo install --locked --quiet ${version:+--version "$version"} "$crate" >&2)
}

# Debian's cloud kernel, unpacked and not installed, as $KERNELS/debian-<release>/{boot,lib/modules/<release>}.
guest_kernel() {
  [ -n "$update" ] || [ -z "$(stock_kernel "$CPU")" ] || return 0
  # shellcheck source=lib/apt.sh
  source "$REPO/scripts/lib/apt.sh"
  mkdir -p "$KERNELS"
  local work image release
  work=$(mktemp -d "$KERNELS/.unpack.XXXXXX")
  # shellcheck disable=SC2064 # the folder's name is known now, not at exit
  trap "rm -rf '$work'" EXIT
  if grep -q '^ID=debian$' /etc/os-release; then
    apt_update_once
  else
    step "reading Debian's package lists for a guest kernel"
    private_apt "$work/apt" "$DEB_ARCH" bookworm bookworm-updates bookworm-security
  fi
  image=$(apt_depends "linux-image-cloud-$DEB_ARCH" '^linux-image-[0-9]' | head -n 1) || true
  [ -n "$image" ] || die "apt knows no guest kernel (linux-image-cloud-$DEB_ARCH)" \
    "check /etc/apt/sources.list, or give mvmctl a kernel with MVM_KERNEL"
  release=${image#linux-image-}
  [ ! -e "$KERNELS/debian-$release" ] || return 0
  step "unpacking Debian's guest kernel $release into $KERNELS"
  mkdir "$work/tree"
  apt_fetch "$work" "$image"
  dpkg-deb -x "$work"/linux-image-*.deb "$work/tree"
  # Bookworm's package says lib/, later ones say usr/lib/.
  [ ! -d "$work/tree/usr/lib/modules" ] || mv -T "$work/tree/usr/lib" "$work/tree/lib"
  # The symbol map of a cloud kernel is a placeholder, and nobody reads the changelog of a guest.
  rm -rf "$work/tree/usr" "$work/tree"/boot/System.map-*
  [ -d "$work/tree/lib/modules/$release" ] || die "package $image holds no modules for $release"
  mv -T "$work/tree" "$KERNELS/debian-$release" 2>/dev/null ||
    [ -e "$KERNELS/debian-$release" ] || die "cannot move the unpacked kernel into $KERNELS"
}

# Nix works for a plain user when /nix is theirs or a daemon runs; a fresh package has neither.
nix_store() {
  [ "$(id -u)" != 0 ] || return 0
  [ ! -S /nix/var/nix/daemon-socket/socket ] || return 0
  [ ! -w /nix ] || return 0
  if [ -d /nix ] && [ -n "$(ls -A /nix 2>/dev/null)" ]; then
    say "warning: /nix belongs to another user and no Nix daemon runs: \`nix build\` will fail for $(id -un)"
    return 0
  fi
  step "creating /nix for $(id -un)"
  as_root install -d -m 755 -o "$(id -u)" -g "$(id -g)" /nix
}

# On other systems we say what to do instead of guessing at their package managers.
other_system() {
  local missing vsock=
  missing=$(missing_packages | tr '\n' ' ')
  have vhost-device-vsock || vsock=vhost-device-vsock
  if [ -z "$missing$vsock" ]; then
    [ -n "$(stock_kernel "$CPU")" ] || say "note: no guest kernel unpacked; set MVM_KERNEL, or boot images that bring their own"
    return 0
  fi
  say "missing (Debian's package names): $missing$vsock"
  case $(uname -s):$(sed -n 's/^ID=//p' /etc/os-release 2>/dev/null) in
    Darwin:*)
      say "macOS: install Nix from https://nixos.org/download; Linux guests are built by a Linux builder, and QEMU"
      say "       is not needed where Apple's Virtualization.framework runs them (macOS 26)." ;;
    *:fedora) say "Fedora: sudo dnf install qemu-system-x86-core nix e2fsprogs busybox git gcc binutils python3 cpio" ;;
    *:arch) say "Arch: sudo pacman -S --needed qemu-system-x86 nix e2fsprogs busybox git gcc binutils python cpio" ;;
    *:nixos) say "NixOS: nix shell nixpkgs#{qemu,e2fsprogs,pkgsStatic.busybox,git,gcc,binutils,python3,cpio}" ;;
    *) say "install them with this system's package manager (busybox must be statically linked)" ;;
  esac
  [ -z "$vsock" ] || say "every Linux: cargo install --locked --version 0.3.0 vhost-device-vsock"
  exit 1
}

need_cargo
if ! have apt-get || ! have dpkg-deb; then
  other_system
  exit 0
fi

mapfile -t packages < <(missing_packages)
if [ ${#packages[@]} -gt 0 ]; then
  # shellcheck source=lib/apt.sh
  source "$REPO/scripts/lib/apt.sh"
  without_services apt_install "${packages[@]}"
fi
nix_store
guest_kernel
# QEMU's other half of vsock where the host kernel has no /dev/vhost-vsock.
cargo_program 1 vhost-device-vsock vhost-device-vsock 0.3.0
cargo_program 2 cargo-nextest cargo-nextest
cargo_program 3 just just
