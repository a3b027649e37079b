#!/usr/bin/env bash
# From a fresh clone to a running microVM: sets the machine up, builds mvmctl, boots a VM, runs `uname -a` in it.
#
# usage: scripts/quickstart.sh
source "$(dirname "$0")/lib/common.sh"
cd "$REPO"

"$REPO/scripts/dev-setup.sh" run
need_cargo
nix_environment

step "building mvmctl and the guest program (release; the first time takes some minutes)"
target=${CARGO_TARGET_DIR:-$REPO/target}
cargo build --release --quiet -p mvmctl >&2
MVM_GUEST=$("$REPO/scripts/build-guest.sh")
export MVM_GUEST
mvmctl=$target/release/mvmctl

# Its own name, so that it never meets a VM of the user's; taken down however this script ends.
name=quickstart-$$
cleanup() {
  "$mvmctl" down "$name" >/dev/null 2>&1 || true
  "$mvmctl" rm "$name" >/dev/null 2>&1 || true
}
trap cleanup EXIT

step "booting a microVM: mvmctl up -d --name $name"
"$mvmctl" up -d --name "$name" >&2
step "in the microVM: mvmctl exec $name -- uname -a"
"$mvmctl" exec "$name" -- uname -a
step "taking it down: mvmctl down $name"
"$mvmctl" down "$name" >&2
"$mvmctl" rm "$name" >&2
trap - EXIT

cat >&2 <<T

It works. What to try next (mvmctl is ${mvmctl#"$REPO"/}):
  mvmctl up -d --name demo             boot a VM that stays
  mvmctl exec demo -- cat /proc/cpuinfo
  mvmctl console demo                  a shell inside
  mvmctl ls; mvmctl logs demo
  mvmctl down demo
  mvmctl up --flake .#my-image         boot what a Nix flake builds
  scripts/build-kernel.sh              build mvm's own guest kernel: VMs boot several times faster
T
