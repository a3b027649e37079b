# A kernel of nixpkgs as a guest's: `kernel = mvm.lib.stockKernel { inherit pkgs; kernel = pkgs.linux; };`. It brings what
# mvm's own kernel has built in as modules, which stage 1 loads.
{ lib }:
{
  pkgs,
  kernel ? pkgs.linux,
}:
let
  x86 = kernel.stdenv.hostPlatform.isx86_64;
  modules = lib.getOutput "modules" kernel;
  # In the order of their need; what a kernel has built in is passed over.
  wanted = [
    "crc32c_generic"
    "virtio_mmio"
    "virtio_pci"
    "virtio_blk"
    "ext4"
    "overlay"
    "vmw_vsock_virtio_transport"
    "virtio_rng"
    "virtio_net"
  ];
  optional = [
    "crc32c_generic"
    "virtio_rng"
    "virtio_net"
  ];
in
{
  # Firecracker takes no bzImage, and QEMU enters a vmlinux faster.
  file =
    if x86 then
      "${
        pkgs.runCommand "mvm-stock-vmlinux-${kernel.version}" { } ''
          mkdir "$out"
          $STRIP -s -o "$out/vmlinux" ${kernel.dev}/vmlinux
        ''
      }/vmlinux"
    else
      "${kernel}/Image";
  format = if x86 then "elf" else "Image";
  params = [ ];
  modules =
    pkgs.runCommand "mvm-stock-modules-${kernel.version}"
      {
        nativeBuildInputs = [
          pkgs.buildPackages.kmod
          pkgs.buildPackages.xz
          pkgs.buildPackages.zstd
        ];
      }
      ''
        mkdir "$out"
        release=$(ls ${modules}/lib/modules)
        n=0
        for module in ${lib.escapeShellArgs wanted}; do
          if ! modprobe -d ${modules} -S "$release" --show-depends "$module" >needed 2>error; then
            case " ${toString optional} " in
              *" $module "*) echo "the kernel has no $module"; continue ;;
              *) cat error; exit 1 ;;
            esac
          fi
          while read -r kind path rest; do
            [ "$kind" = insmod ] || continue
            name=$(basename "$path" | sed 's/\.ko.*//')
            ! ls "$out" | grep -qx "[0-9]*-$name\.ko" || continue
            to=$out/$(printf %02d "$n")-$name.ko
            case $path in
              *.xz) xz -dc "$path" >"$to" ;;
              *.zst) zstd -dc "$path" >"$to" ;;
              *.gz) gzip -dc "$path" >"$to" ;;
              *) cp "$path" "$to" ;;
            esac
            n=$((n + 1))
          done <needed
        done
      '';
}
