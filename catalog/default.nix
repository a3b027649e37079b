# The images that come with mvm: one folder each, with a module (default.nix) and what is told of it (meta.nix).
rec {
  names =
    let
      entries = builtins.readDir ./.;
    in
    builtins.filter (name: entries.${name} == "directory") (builtins.attrNames entries);

  module = name: ./. + "/${name}";

  meta =
    name:
    {
      # The options it is written in: those of modules/guest, or of NixOS.
      kind = "guest";
    }
    // import (./. + "/${name}/meta.nix");

  # What mvmctl lists and searches without Nix: catalog/index.json is this, written by scripts/check-nix.sh --write.
  index = map (name: { inherit name; } // meta name) names;
}
