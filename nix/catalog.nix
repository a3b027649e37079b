# system -> the images of catalog/, each with its `meta`.
{
  lib,
  self,
  nixpkgs,
  mvm,
  ...
}:
system:
let
  catalog = import ../catalog;
  guestSystem = mvm.guestSystem system;
  guest =
    name:
    mvm.mkGuest {
      system = guestSystem;
      modules = [ (catalog.module name) ];
    };
  nixos =
    name:
    (nixpkgs.lib.nixosSystem {
      modules = [
        self.nixosModules.guest
        (catalog.module name)
        { nixpkgs.hostPlatform = guestSystem; }
      ];
    }).config.system.build.mvmImage;
  image =
    name:
    let
      meta = catalog.meta name;
    in
    (if meta.kind == "nixos" then nixos name else guest name) // { inherit meta; };
in
lib.genAttrs catalog.names image
