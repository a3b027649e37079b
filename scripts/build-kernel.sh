#!/usr/bin/env bash
# Builds mvm's own guest kernel from Debian's linux-source and the fragments in kernel/, into the kernel cache.
#
# usage: scripts/build-kernel.sh [--arch x86_64|aarch64] [--with FRAGMENT]… [--update] [--print]
#   --arch    the guest's CPU (this machine's by default); another one needs Debian's cross compiler, installed on demand
#   --with    add an optional fragment, kernel/FRAGMENT.config (for example `network`)
#   --update  also rebuild when Debian has a newer source; otherwise only a changed fragment rebuilds
#   --print   build nothing: print the folder of an up-to-date kernel, or fail
#
# Prints the kernel's folder: $CACHE/kernels/mvm-<version>[-FRAGMENT…]-<arch>/{vmlinux or Image,config,release,source,
# fragment.sha256}. MVM_LINUX_SOURCE_DEB=FILE takes a linux-source package that was downloaded before.
source "$(dirname "$0")/lib/common.sh"

series=6.1
arch=$CPU update='' print='' extras=()
while [ $# -gt 0 ]; do
  case $1 in
    --arch) arch=${2:-} && shift ;;
    --with) extras+=("${2:-}") && shift ;;
    --update) update=1 ;;
    --print) print=1 ;;
    *) die "unknown argument '$1'" "see the head of scripts/build-kernel.sh" ;;
  esac
  shift
done

case $arch in
  x86_64) target=vmlinux image=vmlinux artifact=vmlinux make_arch=x86_64 ;;
  aarch64) target=Image image=arch/arm64/boot/Image artifact=Image make_arch=arm64 ;;
  *) die "no guest kernel for CPU '$arch'" "x86_64 and aarch64 are known" ;;
esac

fragments=("$REPO/kernel/common.config" "$REPO/kernel/$arch.config")
suffix=
for extra in ${extras[@]+"${extras[@]}"}; do
  [[ $extra =~ ^[a-z0-9]+$ ]] && [ -f "$REPO/kernel/$extra.config" ] || die "no fragment kernel/$extra.config"
  fragments+=("$REPO/kernel/$extra.config")
  suffix+=-$extra
done

# The settings are what matters, not their comments: editing a comment must not rebuild a kernel.
settings() { grep -h '^CONFIG_' "${fragments[@]}"; }
fragment_hash=$(settings | sha256sum | cut -d' ' -f1)

# The newest built kernel with these settings, or nothing.
built() {
  local folder
  for folder in $(printf '%s\n' "$KERNELS"/mvm-[0-9]*"$suffix-$arch" | sort -rV); do
    [ -f "$folder/$artifact" ] && [ "$(cat "$folder/fragment.sha256" 2>/dev/null)" = "$fragment_hash" ] || continue
    printf '%s\n' "$folder"
    return
  done
}

folder=$(built)
if [ -n "$print" ]; then
  [ -n "$folder" ] || die "no up-to-date kernel of our own for $arch" "scripts/build-kernel.sh --arch $arch builds it"
  printf '%s\n' "$folder"
  exit
fi
if [ -n "$folder" ] && [ -z "$update" ]; then
  printf '%s\n' "$folder"
  exit
fi

have dpkg-deb || die "building the kernel needs Debian's tools (dpkg-deb, apt-get)" "use the stock kernel, or build on Debian"
# shellcheck source=lib/apt.sh
source "$REPO/scripts/lib/apt.sh"

# One build at a time on a machine; whoever waited finds the result.
mkdir -p "$KERNELS" "$DEV_CACHE"
exec 9>"$DEV_CACHE/kernel.lock"
flock 9
folder=$(built)
if [ -n "$folder" ] && [ -z "$update" ]; then
  printf '%s\n' "$folder"
  exit
fi

# Under the lock no one else builds: what lies here is of a build that was killed.
rm -rf "$DEV_CACHE"/kernel-build.*
work=$(mktemp -d "$DEV_CACHE/kernel-build.XXXXXX")
trap 'rm -rf "$work"' EXIT

# --- what the build needs --------------------------------------------------------------------------------------------
cross=
wanted=()
for row in "make make" "flex flex" "bison bison" "bc bc" "xz xz-utils" "perl perl" "cc gcc" "ld binutils"; do
  read -r program package <<<"$row"
  have "$program" || wanted+=("$package")
done
if [ "$arch" != "$CPU" ]; then
  cross=$arch-linux-gnu-
  have "${cross}gcc" || wanted+=("gcc-${arch/_/-}-linux-gnu")
fi
for package in libelf-dev libssl-dev libc6-dev; do
  dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -q '^installed' || wanted+=("$package")
done
[ ${#wanted[@]} = 0 ] || apt_install "${wanted[@]}"

# --- the source ------------------------------------------------------------------------------------------------------
deb=${MVM_LINUX_SOURCE_DEB:-}
if [ -z "$deb" ]; then
  apt_knows "linux-source-$series" || { [ "$(id -u)" != 0 ] && ! have sudo; } || apt_update_once
  if ! apt_knows "linux-source-$series"; then
    private_apt "$work/apt" "$DEB_ARCH" bookworm bookworm-updates bookworm-security
  fi
  step "downloading linux-source-$series (140 MB)"
  apt_fetch "$work" "linux-source-$series"
  deb=$(echo "$work/linux-source-$series"_*.deb)
fi
[ -f "$deb" ] || die "no linux-source package at $deb"
source_version=$(dpkg-deb -f "$deb" Version)
version=${source_version%-*}
destination=$KERNELS/mvm-$version$suffix-$arch
if [ -n "$folder" ] && [ "$(cat "$folder/source")" = "$source_version" ]; then
  printf '%s\n' "$folder"
  exit
fi
step "unpacking Linux $version"
dpkg-deb -x "$deb" "$work/deb"
tar -C "$work" -xf "$work/deb/usr/src/linux-source-$series.tar.xz"
tree=$work/linux-source-$series
# The same source gives the same kernel: its date, not today's, and no trace of who built it where.
KBUILD_BUILD_TIMESTAMP=$(date -u -d "@$(stat -c %Y "$work/deb/usr/src/linux-source-$series.tar.xz")" '+%a %b %e %T UTC %Y')
export KBUILD_BUILD_TIMESTAMP KBUILD_BUILD_USER=mvm KBUILD_BUILD_HOST=mvm KBUILD_BUILD_VERSION=1 LC_ALL=C
rm -rf "$work/deb" "$work"/*.deb

kernel_make() { nice -n 10 make -s -C "$tree" ARCH="$make_arch" CROSS_COMPILE="$cross" LOCALVERSION=-mvm "$@"; }

# --- the configuration -----------------------------------------------------------------------------------------------
settings >"$work/settings"
KCONFIG_ALLCONFIG=$work/settings kernel_make allnoconfig >&2
# Kconfig drops, without a word, what it does not know or whose dependencies are missing.
lost=$(awk -F= '
  FNR == NR { if (/^CONFIG_/) { value = $0; sub(/^[^=]*=/, "", value); got[$1] = value } ; next }
  { value = $0; sub(/^[^=]*=/, "", value); have = ($1 in got) ? got[$1] : "n"
    if (have != value) printf "  %s: asked for %s, got %s\n", $1, value, have }
' "$tree/.config" "$work/settings")
[ -z "$lost" ] || die "Linux $version does not honour these lines of the fragments:
$lost" "a symbol was renamed, or depends on one that is not set: see kernel/README.md"

# --- the build -------------------------------------------------------------------------------------------------------
step "building Linux $version for $arch with $(nproc) jobs (5 to 10 minutes of CPU)"
kernel_make -j"$(nproc)" "$target" >&2
release=$(kernel_make kernelrelease)

result=$work/result
mkdir "$result"
if [ "$arch" = x86_64 ]; then
  # Symbols and relocations are of no use to a loader; the PVH entry is a program header and stays.
  "${cross}strip" -s -o "$result/$artifact" "$tree/$image"
else
  cp "$tree/$image" "$result/$artifact"
fi
cp "$tree/.config" "$result/config"
printf '%s\n' "$release" >"$result/release"
printf '%s\n' "$source_version" >"$result/source"
printf '%s\n' "$fragment_hash" >"$result/fragment.sha256"

# A running VM keeps the files it opened; the next one sees either the old folder or the new.
[ ! -e "$destination" ] || mv -T "$destination" "$work/old"
mv -T "$result" "$destination"
step "built $(du -h "$destination/$artifact" | cut -f1) $artifact, $release"
printf '%s\n' "$destination"
