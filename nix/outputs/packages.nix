# system -> packages: mvm's own, and the images of the catalog as image-NAME.
{
  lib,
  self,
  packagesFor,
  ...
}:
system:
let
  packages = packagesFor system;
in
packages
// {
  default = packages.mvmctl;
}
// lib.mapAttrs' (name: lib.nameValuePair "image-${name}") self.catalog.${system}
