# What the modules are given where there are no packages: derivations that are never built.
{ lib }:
let
  drv =
    name:
    derivation {
      inherit name;
      system = "x86_64-linux";
      builder = "/no-builder";
    };
  packages =
    lib.genAttrs [
      "bash"
      "bashInteractive"
      "cacert"
      "coreutils"
      "cpio"
      "curl"
      "e2fsprogs"
      "findutils"
      "gawk"
      "gcc"
      "git"
      "gnugrep"
      "gnumake"
      "gnused"
      "hello"
      "lima"
      "nginx"
      "nix"
      "nodejs"
      "postgresql"
      "redis"
    ] drv
    // {
      inherit lib;
      python3 = drv "python3" // {
        withPackages = _: drv "python3-env";
      };
      pkgsStatic.busybox = drv "busybox";
      closureInfo = _: drv "closure-info";
    };
in
rec {
  pkgs = packages // {
    stdenv.hostPlatform.system = "x86_64-linux";
  };
  packagesFor = system: {
    mvmctl = drv "mvmctl";
    mvm-guest = drv "mvm-guest";
    kernel = drv "kernel" // {
      mvm = {
        file = "kernel";
        format = if lib.hasPrefix "aarch64" system then "Image" else "elf";
        params = [ "acpi=off" ];
      };
    };
  };
  # mvm.lib, with packages that never are built and an agent of a version that never was.
  lib' = import ../../nix/lib.nix {
    inherit lib packagesFor;
    pkgsFor = system: packages // { stdenv.hostPlatform = { inherit system; }; };
  };
  mvm = lib'.guestParts pkgs // {
    agent = {
      program = "${drv "mvm-guest"}/bin/mvm-guest";
      protocol = 1;
      version = "0.0.0";
    };
  };
  tools = import ../../nix/tools.nix { inherit lib pkgs; };
  # mvm.lib for the NixOS modules, whose own packages are real ones.
  fakeMvm = {
    mkGuest = { modules, ... }: image modules;
    mkImage = { arguments, ... }: (import ../../nix/image.nix { inherit tools; }) arguments;
    guestParts = _: mvm;
  };

  # The options of a guest with these modules over them.
  evaluate =
    modules:
    lib.evalModules {
      modules = [ ../../modules/guest ] ++ modules;
      specialArgs = { inherit pkgs mvm; };
    };
  image =
    modules:
    (import ../../nix/guest.nix { inherit lib; }) {
      inherit
        tools
        mvm
        pkgs
        modules
        ;
    };
}
