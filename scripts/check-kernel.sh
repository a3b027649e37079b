#!/usr/bin/env bash
# Boots a kernel of our own under QEMU's software emulation and checks, from inside, that it has what mvm's guests need.
#
# usage: scripts/check-kernel.sh [KERNEL_DIR]      this machine's CPU by default; any folder of scripts/build-kernel.sh
source "$(dirname "$0")/lib/common.sh"

folder=${1:-$("$REPO/scripts/build-kernel.sh" --print)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ -f "$folder/vmlinux" ]; then
  arch=x86_64 kernel=$folder/vmlinux qemu=qemu-system-x86_64 console=ttyS0
else
  arch=aarch64 kernel=$folder/Image qemu=qemu-system-aarch64 console=ttyAMA0
fi
have "$qemu" || die "$qemu is needed" "on Debian: apt-get install qemu-system-x86 qemu-system-arm"
have cpio || die "cpio is needed" "scripts/dev-setup.sh test"

# A static busybox for the guest's CPU; another CPU's comes from Debian's package.
if [ "$arch" = "$CPU" ]; then
  busybox=$(command -v busybox)
else
  # shellcheck source=lib/apt.sh
  source "$REPO/scripts/lib/apt.sh"
  private_apt "$work/apt" "$(deb_arch "$arch")" bookworm
  apt_fetch "$work" busybox-static
  dpkg-deb -x "$work"/busybox-static_*.deb "$work/busybox"
  busybox=$(find "$work/busybox" -path "*/bin/busybox" -type f -print -quit)
fi

mkdir -p "$work/initrd/bin"
cp "$busybox" "$work/initrd/bin/busybox"
cat >"$work/initrd/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /m
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
b=/bin/busybox
ok() { n=$1; shift; if "$@" >/dev/null 2>&1; then echo "CHECK ok   $n"; else echo "CHECK FAIL $n"; fi; }
fs() { $b grep -qw "$1" /proc/filesystems; }
echo "CHECK info $($b uname -srm), $($b nproc) vCPUs, up $($b cut -d' ' -f1 /proc/uptime) s"
for f in ext4 overlay tmpfs fuse virtiofs autofs proc devtmpfs cgroup2 bpf; do
  ok "filesystem $f" fs $f
done
ok "two vCPUs" [ "$($b nproc)" = 2 ]
ok "dm-verity, set up by dm-init on the command line" [ "$($b cat /sys/block/dm-0/dm/name)" = verity-root ]
ok "every block of it verifies" $b cat /dev/dm-0
ok "mount ext4 by way of dm-verity" $b mount -t ext4 -o ro /dev/dm-0 /m
$b mkdir -p /rw; $b mount -t tmpfs rw /rw; $b mkdir -p /rw/up /rw/work /merged
ok "overlay on it" $b mount -t overlay o -o lowerdir=/m,upperdir=/rw/up,workdir=/rw/work /merged
ok "write through the overlay" $b touch /merged/x
ok "virtio-net interface" [ -e /sys/class/net/eth0 ]
ok "IPv6" [ -e /proc/net/if_inet6 ]
ok "vsock socket family" $b grep -q ^AF_VSOCK /proc/net/protocols
ok "virtio-vsock device" $b sh -c "$b ls -d /sys/bus/virtio/drivers/vmw_vsock_virtio_transport/virtio*"
ok "virtio-rng" $b grep -q virtio /sys/class/misc/hw_random/rng_current
ok "balloon" $b sh -c "$b ls -d /sys/bus/virtio/drivers/virtio_balloon/virtio*"
ok "virtio-console" [ -e /dev/hvc0 ]
ok "device-mapper" [ -e /sys/class/misc/device-mapper ]
ok "loop devices" [ -e /dev/loop0 ]
ok "PTYs" [ -e /dev/ptmx ]
$b mkdir -p /cg; $b mount -t cgroup2 cg /cg
for c in cpuset cpu io memory pids; do
  ok "cgroup controller $c" $b grep -qw $c /cg/cgroup.controllers
done
for n in user pid net mnt uts ipc time; do
  ok "$n namespace" [ -e /proc/self/ns/$n ]
done
ok "no modules" [ ! -e /proc/modules ]
ok "no /dev/mem" [ ! -e /dev/mem ]
ok "mitigations known" $b sh -c "$b cat /sys/devices/system/cpu/vulnerabilities/spectre_v2"
echo "CHECK info spectre_v2: $($b cat /sys/devices/system/cpu/vulnerabilities/spectre_v2)"
echo "CHECK done"
$b reboot -f
INIT
chmod 755 "$work/initrd/init"
(cd "$work/initrd" && find . | LC_ALL=C sort | cpio -o -H newc --quiet -R 0:0) >"$work/initrd.cpio"

# The disk: 4 MiB of ext4 under its label, and beside it its hash tree.
data=/dev/vda tree=/dev/vdb
truncate -s 4M "$work/root.ext4"
mke2fs -q -t ext4 -O ^has_journal -b 4096 -L mvm-root "$work/root.ext4"
python3 - "$work/root.ext4" "$work/hash" "$data" "$tree" >"$work/verity" <<'PY'
# dm-verity, hash format 1, no superblock (kernel: Documentation/admin-guide/device-mapper/verity.rst).
import hashlib, sys
block, salt = 4096, b""
data = open(sys.argv[1], "rb").read()
level = [data[i:i + block] for i in range(0, len(data), block)]
blocks, levels = len(level), []
while len(level) > 1:
    digests = b"".join(hashlib.sha256(salt + b).digest() for b in level)
    digests += b"\0" * (-len(digests) % block)
    level = [digests[i:i + block] for i in range(0, len(digests), block)]
    levels.append(digests)
open(sys.argv[2], "wb").write(b"".join(reversed(levels)))
print(f"{blocks * 8} verity 1 {sys.argv[3]} {sys.argv[4]} {block} {block} {blocks} 0 sha256 {hashlib.sha256(level[0]).hexdigest()} -")
PY

# run NAME COMMAND-LINE QEMU-ARGUMENTS…
failed=0
# shellcheck disable=SC2317 # called by with_vsock
run() {
  local name=$1 append=$2 log=$work/$1.log
  shift 2
  timeout 60 "$qemu" "$@" -nodefaults -no-user-config -display none -no-reboot -smp 2 -m 256 \
    -kernel "$kernel" -initrd "$work/initrd.cpio" -serial "file:$log" \
    -object "memory-backend-memfd,id=m,size=256M,share=on" \
    -drive "id=d0,file=$work/root.ext4,format=raw,if=none,readonly=on" \
    -drive "id=d1,file=$work/hash,format=raw,if=none,readonly=on" \
    -netdev "user,id=n0,restrict=on" -chardev "socket,id=v0,path=$work/vhost.sock" \
    -append "console=$console panic=-1 $append dm-mod.create=\"verity-root,,0,ro,0 $(cat "$work/verity")\"" || true
  printf -- '--- %s\n' "$name"
  sed -n 's/\r$//; s/^CHECK //p' "$log"
  if ! grep -q '^CHECK done' "$log" || grep -q '^CHECK FAIL' "$log"; then
    failed=1
    grep -q '^CHECK done' "$log" || tail -n 30 "$log"
  fi
}

# vhost-device-vsock ends with its one connection: one for each run.
with_vsock() {
  local device
  rm -f "$work/vhost.sock" "$work/uds"
  vhost-device-vsock --guest-cid 3 --socket "$work/vhost.sock" --uds-path "$work/uds" &
  device=$!
  # QEMU's chardev would fail before the socket is there.
  python3 - "$work/vhost.sock" <<'PY'
import os, sys, time
deadline = time.monotonic() + 10
while not os.path.exists(sys.argv[1]):
    if time.monotonic() > deadline:
        sys.exit("vhost-device-vsock made no socket in 10 s")
    time.sleep(0.01)
PY
  "$@"
  kill "$device" 2>/dev/null || true
  wait "$device" 2>/dev/null || true
}

devices() {
  local bus=$1
  echo -device "virtio-blk-$bus,drive=d0" -device "virtio-blk-$bus,drive=d1" -device "virtio-net-$bus,netdev=n0" \
    -device "virtio-rng-$bus" -device "virtio-balloon-$bus" -device "virtio-serial-$bus" -device "virtconsole" \
    -device "vhost-user-vsock-$bus,chardev=v0"
}

read -ra mmio < <(devices device)
read -ra pci < <(devices pci)
if [ "$arch" = x86_64 ]; then
  # shellcheck disable=SC2054 # commas are QEMU's
  common=(-accel tcg,thread=multi -cpu max "${mmio[@]}")
  # Emulated time: the early TSC frequency cannot be measured under emulation on this machine type.
  append="tsc_early_khz=2000000 reboot=t"
  with_vsock run "microvm-acpi-off" "$append" -M microvm,acpi=off,memory-backend=m "${common[@]}"
  with_vsock run "microvm-acpi-on" "$append" -M microvm,acpi=on,memory-backend=m "${common[@]}"
  with_vsock run "microvm-mitigations-off" "$append mitigations=off" -M microvm,acpi=off,memory-backend=m "${common[@]}"
else
  # This machine's device tree lists the transports last to first: so the disks here, for /dev/vda to be the data.
  mmio=("${mmio[@]:2:2}" "${mmio[@]:0:2}" "${mmio[@]:4}")
  with_vsock run "virt-mmio" "" -M virt,memory-backend=m -accel tcg,thread=multi -cpu max "${mmio[@]}"
  with_vsock run "virt-pci" "" -M virt,memory-backend=m -accel tcg,thread=multi -cpu max "${pci[@]}"
fi
exit "$failed"
