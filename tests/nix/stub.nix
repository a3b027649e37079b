# What the guest modules are given where there are no packages: derivations that are never built.
{ lib }:
let
  drv =
    name:
    derivation {
      inherit name;
      system = "x86_64-linux";
      builder = "/no-builder";
    };
in
rec {
  pkgs = {
    inherit lib;
  }
  // lib.genAttrs [ "hello" "nginx" ] drv;
  tools = {
    system = "x86_64-linux";
    shell = [ "${drv "shell"}/bin/sh" ];
    path = "/no-path";
    mke2fs = [ "mke2fs" ];
    debugfs = [ "debugfs" ];
    cpio = [ "cpio" ];
  };
  mvm = {
    system = "x86_64-linux";
    agent = {
      program = "${drv "mvm-guest"}/bin/mvm-guest";
      protocol = 1;
      version = "0.0.0";
    };
    base = drv "busybox";
    kernel = {
      file = "${drv "kernel"}/vmlinux";
      format = "elf";
      params = [ "acpi=off" ];
    };
  };
  packagesFor = _: {
    mvmctl = drv "mvmctl";
  };
  # mvm.lib with these parts.
  fakeMvm = {
    mkGuest = { modules, ... }: image modules;
    mkImage = { arguments, ... }: (import ../../nix/image.nix { inherit tools; }) arguments;
    guestParts = _: mvm;
  };
  # The options with these modules over them.
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
