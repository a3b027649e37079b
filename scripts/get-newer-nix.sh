#!/usr/bin/env bash
# Puts a newer Nix beside the machine's own, for the tests of the Nix driver: from Debian's packages, without installing.
#
# usage: scripts/get-newer-nix.sh SUITE DEST      SUITE: trixie (Nix 2.26) or sid (2.34); prints DEST/bin/nix
#
# DEST holds the program, exactly the libraries that it needs (its own libc among them, so it runs on an older system)
# and a wrapper that starts it through its own dynamic loader. The store is the machine's /nix/store.
source "$(dirname "$0")/lib/common.sh"

[ $# = 2 ] || die "two arguments are needed" "usage: scripts/get-newer-nix.sh SUITE DEST"
suite=$1
dest=$(realpath -m "$2")
[[ $suite =~ ^[a-z]+$ ]] || die "'$suite' is no Debian suite" "trixie or sid"

if [ -x "$dest/bin/nix" ] && "$dest/bin/nix" --version >/dev/null 2>&1; then
  printf '%s\n' "$dest/bin/nix"
  exit
fi
have dpkg-deb && have readelf || die "Debian's tools (dpkg-deb, apt-get, readelf) are needed"
# shellcheck source=lib/apt.sh
source "$REPO/scripts/lib/apt.sh"

mkdir -p "$(dirname "$dest")"
work=$(mktemp -d "$dest.XXXXXX")
trap 'rm -rf "$work"' EXIT
step "fetching Nix of Debian $suite"
private_apt "$work/apt" "$DEB_ARCH" "$suite"

# With an empty package status apt names everything that nix-bin needs. Only libraries matter to a program that is run and
# not installed; which of them is settled by the ELF headers below.
uris=$(apt-get "${APT_OPTS[@]}" install -y --no-install-recommends --print-uris nix-bin)
mapfile -t packages < <(sed -n "s/^'\([^']*\)'.*/\1/p" <<<"$uris" | sed 's|.*/||; s/_.*//; s/%2b/+/g' |
  grep -E '^(nix-bin|zlib1g|lib.+)$' | grep -vE '^libperl|-perl$')
[ ${#packages[@]} -gt 0 ] || die "Debian $suite has no nix-bin"
mkdir "$work"/{debs,root}
apt_fetch "$work/debs" "${packages[@]}"
for deb in "$work"/debs/*.deb; do
  dpkg-deb -x "$deb" "$work/root"
done

# Copies an ELF file's needed libraries, and theirs, into lib/.
tree=$work/tree
mkdir -p "$tree"/{bin,lib,libexec,etc}
collect() {
  local name path
  for name in $(LC_ALL=C readelf -dW "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'); do
    [ ! -e "$tree/lib/$name" ] || continue
    path=$(find "$work/root" -name "$name" -print -quit)
    [ -n "$path" ] || die "no package of Debian $suite brought $name"
    # Absolute links point into the unpacked tree, not into the machine.
    cp -L "$path" "$tree/lib/$name" 2>/dev/null || cp "$work/root$(readlink "$path")" "$tree/lib/$name"
    collect "$tree/lib/$name"
  done
}
cp "$work/root/usr/bin/nix" "$tree/libexec/nix"
collect "$tree/libexec/nix"
loader=$(basename "$(LC_ALL=C readelf -lW "$tree/libexec/nix" | sed -n 's/.*interpreter: \(.*\)\]/\1/p')")
[ -e "$tree/lib/$loader" ] || cp -L "$(find "$work/root" -name "$loader" -print -quit)" "$tree/lib/$loader"

busybox=$(command -v busybox) || die "busybox is needed as the build sandbox's /bin/sh" "scripts/dev-setup.sh installs it"
cat >"$tree/etc/nix.conf" <<C
experimental-features = nix-command flakes
build-users-group =
substituters =
flake-registry =
warn-dirty = false
sandbox-paths = /bin/sh=$busybox
C
# Nix starts /proc/self/exe again as its build hook, and that is the loader here: no hook. Nix 2.26 takes this only from
# the environment.
cat >"$tree/bin/nix" <<W
#!/bin/sh
NIX_CONFIG="build-hook =
\${NIX_CONFIG:-}"
NIX_CONF_DIR=\${NIX_CONF_DIR:-$dest/etc}
export NIX_CONFIG NIX_CONF_DIR
exec "$dest/lib/$loader" --argv0 "\${0##*/}" --library-path "$dest/lib" "$dest/libexec/nix" "\$@"
W
chmod 755 "$tree/bin/nix"
for name in nix-build nix-instantiate nix-store; do
  ln -s nix "$tree/bin/$name"
done

rm -rf "$dest"
mv -T "$tree" "$dest"
"$dest/bin/nix" --version >&2 || die "the unpacked Nix does not run"
printf '%s\n' "$dest/bin/nix"
