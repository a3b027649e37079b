#!/usr/bin/env bash
# Copies what the fixture flake's builders need into one folder, its input `tools`: busybox, mke2fs, debugfs and cpio with
# their libraries, mvm-guest, a kernel, and mvm's own image builder. Nothing of nixpkgs, nothing from the network.
#
# usage: scripts/make-test-toolbox.sh DEST [KERNEL_FOLDER]
#   KERNEL_FOLDER  one of those that build-kernel.sh or dev-setup.sh make; else $MVM_TEST_KERNEL_OWN, else
#                  $MVM_TEST_KERNEL_STOCK, else the newest that is there
#   $MVM_GUEST     the guest program; built where it is not set
source "$(dirname "$0")/lib/common.sh"

[ $# = 1 ] || [ $# = 2 ] || die "one or two arguments are needed" "usage: scripts/make-test-toolbox.sh DEST [KERNEL_FOLDER]"
dest=$(realpath -m "$1")
[ ! -e "$dest" ] || die "$dest exists already"
kernel=${2:-${MVM_TEST_KERNEL_OWN:-${MVM_TEST_KERNEL_STOCK:-}}}
# build-kernel.sh prints a file, the others are folders.
[ ! -f "$kernel" ] || kernel=$(dirname "$kernel")
if [ -z "$kernel" ]; then
  kernel=$(compgen -G "$KERNELS/mvm-[0-9]*-$CPU" | sort -V | tail -n 1) || true
  kernel=${kernel:-$(stock_kernel "$CPU")}
fi
[ -d "$kernel" ] || die "there is no guest kernel${kernel:+ in $kernel}" "scripts/dev-setup.sh unpacks one"
guest=${MVM_GUEST:-$("$REPO/scripts/build-guest.sh")}
is_static "$guest" || die "$guest is not a static program"

mkdir -p "$(dirname "$dest")"
work=$(mktemp -d "$dest.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{bin,lib,guest,kernel/modules}
# The builder and the options that images of nixpkgs are made with, as they are: a flake reaches nothing outside of its own
# folder and inputs.
cp -R "$REPO/nix" "$REPO/modules" "$work/"

busybox=$(command -v busybox) || die "busybox is needed" "scripts/dev-setup.sh installs it"
is_static "$busybox" || die "$busybox is not static" "Debian: apt install busybox-static"
install -m 755 "$busybox" "$work/bin/busybox"

# A dynamic program runs in a build sandbox through a loader of our own: lib/ld.so --library-path lib lib/PROGRAM.
for program in mke2fs debugfs cpio; do
  path=$(command -v "$program") || die "$program is needed" "scripts/dev-setup.sh test installs it"
  install -m 755 "$(realpath "$path")" "$work/lib/$program"
  while read -r name arrow library _; do
    case $name in
      */ld-linux* | */ld-musl*) install -m 755 "$(realpath "$name")" "$work/lib/ld.so" ;;
      *) [ "$arrow" != '=>' ] || [ ! -f "$library" ] || install -m 755 "$(realpath "$library")" "$work/lib/$name" ;;
    esac
  done < <(ldd "$path")
done
[ -x "$work/lib/ld.so" ] || die "ldd names no dynamic loader"

install -m 755 "$guest" "$work/guest/mvm-guest"
sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$REPO/Cargo.toml" | tr -d '\n' >"$work/guest/version"
sed -n 's/^pub const PROTOCOL_VERSION: u16 = \([0-9]*\);/\1/p' "$REPO"/crates/mvm-protocol/src/*.rs | tr -d '\n' >"$work/guest/protocol"
[ -s "$work/guest/version" ] && [ -s "$work/guest/protocol" ] || die "the versions of mvm and its protocol are not where they were"

# The kernel with its format in image.json's words.
put_kernel() { install -m 644 "$1" "$work/kernel/kernel" && printf '%s' "$2" >"$work/kernel/format"; }
if [ -f "$kernel/vmlinux" ]; then
  put_kernel "$kernel/vmlinux" elf
elif [ -f "$kernel/Image" ]; then
  put_kernel "$kernel/Image" Image
else
  image=$(compgen -G "$kernel/boot/vmlinuz-*" | head -n 1) || die "no kernel in $kernel"
  # arm64's vmlinuz of Debian is a flat Image.
  if [ "$CPU" = x86_64 ]; then put_kernel "$image" bzImage; else put_kernel "$image" Image; fi
fi
config=$(compgen -G "$kernel/config*" || compgen -G "$kernel/boot/config-*") || die "no configuration beside the kernel in $kernel"
if grep -q '^CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES=y' "$config"; then printf acpi=off; fi >"$work/kernel/cmdline"

# The modules in the order in which they load; what is built in has none.
if [ -d "$kernel/lib/modules" ]; then
  modules=$(echo "$kernel"/lib/modules/*)
  n=0
  for module in virtio_ring virtio virtio_mmio virtio_blk overlay vsock vmw_vsock_virtio_transport_common \
    vmw_vsock_virtio_transport rng-core virtio-rng failover net_failover virtio_net; do
    ! grep -q "/$module\.ko\$" "$modules/modules.builtin" || continue
    file=$(find "$modules/kernel" -name "$module.ko" -print -quit)
    [ -n "$file" ] || die "the kernel has no $module, neither built in nor as an uncompressed module"
    install -m 644 "$file" "$(printf '%s/kernel/modules/%02d-%s.ko' "$work" "$n" "$module")"
    n=$((n + 1))
  done
fi

chmod 755 "$work"
mv -T "$work" "$dest"
trap - EXIT
printf '%s\n' "$dest"
