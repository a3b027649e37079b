# The images of catalog/ and the flakes of templates/, evaluated with packages that are never built.
{ lib }:
let
  stub = import ./stub.nix { inherit lib; };
  catalog = import ../../catalog;
  # With what waits for the Rust side.
  all = lib.attrNames (
    lib.filterAttrs (_: type: type == "directory") (builtins.readDir ../../catalog)
  );
  guests = lib.filter (name: (catalog.meta name).kind == "guest") all;
  config = name: (stub.evaluate [ (catalog.module name) ]).config;
  failures = config: map (a: a.message) (lib.filter (a: !a.assertion) config.assertions);
  equals = expected: actual: { inherit expected actual; };

  mvm = {
    lib = stub.lib';
    outPath = toString ../..;
  };
  # What a template's flake builds; those of NixOS need a NixOS.
  built =
    name:
    let
      flake = import (../../templates + "/${name}/flake.nix");
    in
    (flake.outputs {
      self = { };
      inherit mvm;
    }).packages;
  templates = lib.attrNames (
    lib.filterAttrs (_: type: type == "directory") (builtins.readDir ../../templates)
  );
in
{
  tests = {
    "every template is offered" = equals [ ] (
      lib.subtractLists (lib.attrNames (import ../../templates) ++ [ "nixos" ]) templates
    );
    "a template's README has five lines" = equals (lib.genAttrs templates (_: 5)) (
      lib.genAttrs templates (
        name:
        lib.length (
          lib.splitString "\n" (
            lib.removeSuffix "\n" (builtins.readFile (../../templates + "/${name}/README.md"))
          )
        )
      )
    );
  }
  // lib.listToAttrs (
    lib.concatMap (name: [
      (lib.nameValuePair "${name}: its options fit together" (equals [ ] (failures (config name))))
      (lib.nameValuePair "${name}: it is called like its folder" (equals name (config name).name))
      (lib.nameValuePair "${name}: its ports are those that are told" (
        equals (catalog.meta name).ports (map (port: port.guest) (lib.attrValues (config name).ports))
      ))
      (lib.nameValuePair "${name}: it is an image" (
        equals "mvm-${name}" (stub.image [ (catalog.module name) ]).name
      ))
    ]) guests
  )
  // lib.listToAttrs (
    map (
      name:
      lib.nameValuePair "the template ${name} builds an image on each system" (
        equals (lib.genAttrs stub.lib'.systems (_: [ "default" ])) (
          lib.mapAttrs (
            _: packages:
            lib.attrNames (lib.filterAttrs (_: image: image ? manifest && image.drvPath != "") packages)
          ) (built name)
        )
      )
    ) (lib.remove "nixos" templates)
  );
  errors = { };
}
