# What nix/image.nix builds with, from a nixpkgs: that of the machine that builds, which need not be the guest's.
{ lib, pkgs }:
{
  inherit (pkgs.stdenv.hostPlatform) system;
  shell = [ "${pkgs.bash}/bin/bash" ];
  path = lib.makeBinPath [
    pkgs.coreutils
    pkgs.findutils
    pkgs.gawk
    pkgs.gnugrep
    pkgs.gnused
  ];
  mke2fs = [ "${lib.getBin pkgs.e2fsprogs}/bin/mke2fs" ];
  debugfs = [ "${lib.getBin pkgs.e2fsprogs}/bin/debugfs" ];
  cpio = [ "${pkgs.cpio}/bin/cpio" ];
}
