# Debian packages as data: download and unpack without installing, from the machine's own sources or from a private,
# signature-checked view of another Debian suite. Sourced after common.sh.
# shellcheck shell=bash

# Options for apt-get and apt-cache; empty means the machine's own configuration.
APT_OPTS=()
# As root, apt-get drops to a user that cannot write into our folders and warns about it.
[ "$(id -u)" != 0 ] || APT_OPTS+=(-o APT::Sandbox::User=root)

# The machine's package lists are fetched at most once a run. A third-party source that is down is not our trouble.
apt_updated=
apt_update_once() {
  [ -z "$apt_updated" ] || return 0
  apt_updated=1
  step "apt-get update"
  as_root apt-get update -qq >&2 || say "warning: apt-get update reported errors; going on with what is there"
}

# apt_install PACKAGE…: installs what is given on the machine itself.
apt_install() {
  apt_update_once
  step "apt-get install $*"
  # It tells of every package, hundreds of lines that matter only where it fails.
  local said
  said=$(as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" 2>&1) ||
    die "apt-get install failed: $said"
}

# without_services COMMAND…: no service is started by the packages that the command installs: tests have their own.
# invoke-rc.d(8) asks this program; a machine that has one already has its own policy.
without_services() {
  local policy=/usr/sbin/policy-rc.d done=0
  if [ -e "$policy" ]; then
    "$@"
    return
  fi
  printf '#!/bin/sh\nexit 101\n' | as_root install -m 755 /dev/stdin "$policy"
  # In a shell of its own: where it gives up, this one still has to tidy up.
  ("$@") || done=$?
  as_root rm -f "$policy"
  return "$done"
}

# private_apt DIR ARCH SUITE…: points APT_OPTS at SUITEs of Debian with state in DIR; touches nothing of the machine's.
private_apt() {
  local dir=$1 arch=$2 keyring=/usr/share/keyrings/debian-archive-keyring.gpg mirrors mirror security suite
  shift 2
  [ -r "$keyring" ] || apt_install debian-archive-keyring
  # The mirrors that the machine already uses, where it uses Debian's.
  # shellcheck disable=SC2016 # apt's variable, not the shell's
  mirrors=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 2>/dev/null) || true
  mirror=$(grep -v security <<<"$mirrors" | head -n 1) || true
  security=$(grep security <<<"$mirrors" | head -n 1) || true
  mirror=${mirror:-http://deb.debian.org/debian}
  security=${security:-http://deb.debian.org/debian-security}
  mkdir -p "$dir"/{lists/partial,cache/archives/partial}
  for suite in "$@"; do
    case $suite in
      *-security) echo "deb [arch=$arch signed-by=$keyring] $security $suite main" ;;
      *) echo "deb [arch=$arch signed-by=$keyring] $mirror $suite main" ;;
    esac
  done >"$dir/sources.list"
  APT_OPTS=(
    -o Dir::Etc::sourcelist="$dir/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o Dir::Etc::preferencesparts=/dev/null -o Dir::Etc::preferences=/dev/null
    -o Dir::State="$dir" -o Dir::State::lists="$dir/lists" -o Dir::State::status=/dev/null
    -o Dir::Cache="$dir/cache" -o APT::Architecture="$arch" -o APT::Architectures::="$arch"
    -o Debug::NoLocking=1 -o Acquire::Languages=none
  )
  [ "$(id -u)" != 0 ] || APT_OPTS+=(-o APT::Sandbox::User=root)
  apt-get "${APT_OPTS[@]}" update -qq >&2
}

# apt_fetch DIR PACKAGE…: downloads packages into DIR.
apt_fetch() {
  local dir=$1
  shift
  (cd "$dir" && apt-get "${APT_OPTS[@]}" download -qq "$@" >&2)
}

# True when apt (with APT_OPTS) knows a version of PACKAGE to download.
apt_knows() {
  [ -n "$(apt-cache "${APT_OPTS[@]}" show --no-all-versions "$1" 2>/dev/null)" ]
}

# Packages that PACKAGE depends on directly and whose names match the extended regular expression $2.
apt_depends() {
  apt-cache "${APT_OPTS[@]}" depends --important "$1" 2>/dev/null | sed -n 's/^ *|*Depends: //p' | grep -E "$2"
}
