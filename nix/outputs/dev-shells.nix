# system -> a shell with what building and testing mvm needs.
{ lib, pkgsFor, ... }:
system:
let
  pkgs = pkgsFor system;
in
{
  default = pkgs.mkShell {
    packages = [
      pkgs.cargo
      pkgs.cargo-nextest
      pkgs.clippy
      pkgs.e2fsprogs
      pkgs.git
      pkgs.just
      pkgs.nixfmt
      pkgs.python3
      pkgs.qemu
      pkgs.rustc
      pkgs.rustfmt
      pkgs.shellcheck
    ]
    ++ lib.optionals pkgs.stdenv.hostPlatform.isLinux [
      pkgs.cpio
      pkgs.pkgsStatic.busybox
      # scripts/build-guest.sh links the guest program against a static glibc.
      pkgs.glibc.static
      pkgs.vhost-device-vsock
    ];
  };
}
