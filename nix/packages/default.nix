# mvm's packages from a nixpkgs. Those of a guest are there on Linux only.
{
  lib,
  pkgs,
  # The ref of the flake that they come from.
  flake,
}:
let
  inherit (pkgs) stdenv;
  facts = import ../source.nix;
  # What cargo reads, so that a change of the Nix side or of a page of docs/ does not build the programs anew.
  source = lib.fileset.toSource {
    root = ../..;
    fileset = lib.fileset.unions [
      ../../Cargo.toml
      ../../Cargo.lock
      ../../crates
      ../../src
      ../../xtask
      (lib.fileset.maybeMissing ../../tests)
      # What mvmctl lists without Nix.
      ../../catalog/index.json
      # What it writes without Nix; crates/mvm-cli has a link to it.
      ../../templates
    ];
  };
  common = {
    inherit (facts) version;
    src = source;
    cargoLock.lockFile = ../../Cargo.lock;
    # The tests boot VMs; scripts/test.sh and the flake's checks run them.
    doCheck = false;
    meta = {
      description = "From a Nix flake to a running microVM in one command";
      license = lib.licenses.asl20;
    };
  };
  linux = lib.optionalAttrs stdenv.hostPlatform.isLinux {
    mvm-guest = pkgs.pkgsStatic.callPackage ./mvm-guest.nix { inherit common; };
    kernel = pkgs.callPackage ./kernel.nix { linux = pkgs.linux_6_1; };
    kernel-network = pkgs.callPackage ./kernel.nix {
      linux = pkgs.linux_6_1;
      extra = [ "network" ];
    };
  };
in
linux
// {
  mvmctl = pkgs.callPackage ./mvmctl.nix {
    inherit flake;
    mvmctl-unwrapped = pkgs.callPackage ./mvmctl-unwrapped.nix {
      inherit common;
      mvm-guest = linux.mvm-guest or null;
    };
    kernel = linux.kernel or null;
    # Also where the guest is, for the built-in image.
    busybox = if stdenv.hostPlatform.isLinux then pkgs.pkgsStatic.busybox else null;
  };
}
