# system -> checks, on Linux: the module tests on the locked nixpkgs, the programs, the images' promises, and a NixOS
# machine that runs a VM.
{
  self,
  lib,
  nixpkgs,
  microvm,
  pkgsFor,
  packagesFor,
  ...
}:
system:
let
  pkgs = pkgsFor system;
  packages = packagesFor system;
  runTests = import ../../tests/nix/run.nix;
  # Evaluated with the flake; what is built is the word that it went well.
  tests =
    name: tests:
    let
      failures = runTests { inherit tests; };
    in
    if failures == [ ] then
      pkgs.runCommand "mvm-${name}-tests" { } ''
        echo "${toString (lib.length (lib.attrNames tests))} tests" >"$out"
      ''
    else
      throw "${name}:\n${lib.concatMapStrings (failure: "- ${failure}\n") failures}";

  nixos = import ../../tests/nix/nixos.nix {
    inherit lib;
    eval = modules: nixpkgs.lib.nixosSystem { inherit modules; };
    microvm = microvm.nixosModules.microvm;
  };
  pages = import ../options.nix { inherit lib; };
  image = self.catalog.${system}.minimal;
in
{
  guest-options = tests "guest options" (import ../../tests/nix/guest.nix { inherit lib; }).tests;
  catalog = tests "catalog" (import ../../tests/nix/catalog.nix { inherit lib; }).tests;
  packages = tests "packages" (import ../../tests/nix/packages.nix { inherit lib; }).tests;
  nixos-modules = tests "NixOS modules" (nixos.tests // nixos.whole);
  lock = tests "lock file" (import ../../tests/nix/lock.nix).tests;

  pages = pkgs.runCommand "mvm-pages" { } (
    lib.concatStrings (
      lib.mapAttrsToList (name: text: ''
        diff -u ${../../docs + "/${name}"} ${pkgs.writeText name text}
      '') pages
    )
    + ''
      touch "$out"
    ''
  );

  format = pkgs.runCommand "mvm-format" { nativeBuildInputs = [ pkgs.nixfmt ]; } ''
    cd ${
      lib.fileset.toSource {
        root = ../..;
        fileset = lib.fileset.difference (lib.fileset.fileFilter (
          file: file.hasExt "nix"
        ) ../..) ../../crates;
      }
    }
    find . -name '*.nix' -exec nixfmt --check {} +
    touch "$out"
  '';

  inherit (packages) mvmctl mvm-guest kernel;

  # The promise of the smallest image, and what is in it.
  minimal-size = pkgs.runCommand "mvm-minimal-size" { } ''
    size=$(stat -L -c %s ${image}/rootfs.ext4)
    cat ${image.content}/packages
    echo "the root of minimal has $((size >> 20)) MiB"
    [ "$size" -le $((24 << 20)) ]
    touch "$out"
  '';
}
# Where builders have KVM: CI's arm64 machines have none.
// lib.optionalAttrs (system == "x86_64-linux") {
  nixos-vm = import ../../tests/nix/vm.nix { inherit pkgs self; };
}
