# system -> apps.
{ packagesFor, ... }:
system:
let
  mvmctl = {
    type = "app";
    program = "${(packagesFor system).mvmctl}/bin/mvmctl";
    meta.description = "From a Nix flake to a running microVM in one command";
  };
in
{
  inherit mvmctl;
  default = mvmctl;
}
