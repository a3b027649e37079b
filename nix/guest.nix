# From guest modules to an image: the options evaluated, the assertions asked, the derivation made.
{ lib }:
{
  # What nix/image.nix builds with.
  tools,
  # What belongs to mvm in the guest: { system; agent; base; kernel = { file; format; params; }; }
  mvm,
  # Packages for the guest, given to the modules.
  pkgs,
  modules,
  specialArgs ? { },
}:
let
  evaluated = lib.evalModules {
    modules = [ ../modules/guest ] ++ modules;
    specialArgs = specialArgs // {
      inherit pkgs mvm;
    };
  };
  inherit (evaluated) config options;
  failed = map (a: a.message) (lib.filter (a: !a.assertion) config.assertions);
  checked =
    if failed != [ ] then
      throw "\nthe options of this guest do not fit together:\n${
        lib.concatMapStrings (message: "- ${message}\n") failed
      }"
    else
      lib.foldr builtins.trace config (map (message: "warning: ${message}") config.warnings);
  image = import ./image.nix { inherit tools; } checked.build.image;
in
image // { inherit config options; }
