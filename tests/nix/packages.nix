# mvm's packages on stubs: what is built anew when the flake changes.
{ lib }:
let
  drv =
    attributes:
    derivation (
      {
        name = "stub";
        system = "x86_64-linux";
        builder = "/no-builder";
      }
      // attributes
    );
  pkgs =
    lib.genAttrs [
      "darwin"
      "e2fsprogs"
      "firecracker"
      "lima"
      "makeWrapper"
      "nftables"
      "passt"
      "qemu"
      "vhost-device-vsock"
    ] (name: drv { inherit name; })
    // {
      stdenv.hostPlatform = {
        isLinux = true;
        isDarwin = false;
      };
      rustPlatform.buildRustPackage =
        arguments:
        drv {
          name = arguments.pname;
          inherit (arguments) src;
        }
        // {
          inherit (arguments) version meta;
        };
      runCommand =
        name: attributes: script:
        drv { inherit name script; } // attributes.passthru // { inherit script; };
      pkgsStatic = {
        inherit (pkgs) callPackage;
        busybox = drv { name = "busybox"; };
      };
      linux_6_1 = drv { name = "linux"; };
      # The kernel is not asked for more than its place.
      callPackage =
        file: arguments:
        if baseNameOf file == "kernel.nix" then
          drv { name = "kernel"; }
        else
          lib.callPackageWith (pkgs // { inherit lib; }) file arguments;
    };
  of =
    flake:
    (import ../../nix/packages {
      inherit pkgs flake;
      lib = lib // {
        # Nix 2.8 cannot evaluate the real one.
        fileset = {
          toSource = _: "/source";
          unions = _: null;
          maybeMissing = _: null;
        };
      };
    }).mvmctl;
  one = of "path:/nix/store/one";
  two = of "path:/nix/store/two";
in
{
  tests = {
    "mvmctl is told which flake it came from" = {
      expected = true;
      actual = lib.hasInfix "--set-default MVM_FLAKE path:/nix/store/one" one.script;
    };
    "another flake is another wrapper" = {
      expected = false;
      actual = one.drvPath == two.drvPath;
    };
    "of the same program" = {
      expected = true;
      actual = one.unwrapped.drvPath == two.unwrapped.drvPath;
    };
  };
}
