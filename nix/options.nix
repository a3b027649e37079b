# The pages docs/options*.md, as { FILE = TEXT; }: generated from the options themselves (scripts/check-nix.sh --write).
{ lib }:
let
  stub = import ../tests/nix/stub.nix { inherit lib; };
  # Where option sets need the rest of NixOS to be evaluated, only their declarations are.
  declared =
    modules:
    (lib.evalModules {
      modules = modules ++ [ { _module.check = false; } ];
      specialArgs = {
        inherit (stub) pkgs;
        inherit (stub) mvm;
      };
    }).options;

  text = value: lib.trim (if builtins.isString value then value else value.text);
  code = value: if lib.hasInfix "\n" value then "\n\n```nix\n${value}\n```" else " `${value}`";
  option =
    option:
    "### ${option.name}\n\n${text option.description}\n\n- type: ${option.type}\n"
    + lib.optionalString (option ? default) "- default:${code (text option.default)}\n"
    + lib.optionalString (option ? example) "- example:${code (text option.example)}\n";
  ours =
    prefixes: options:
    lib.filter (
      option:
      option.visible
      && !option.internal
      && !lib.hasPrefix "_module" option.name
      && (prefixes == [ ] || lib.any (prefix: lib.hasPrefix prefix option.name) prefixes)
    ) (lib.optionAttrSetToDocList options);
  page =
    {
      title,
      introduction,
      modules,
      prefixes ? [ ],
    }:
    ''
      # ${title}

      ${introduction}
      Generated from the modules by `scripts/check-nix.sh --write`: change them, not this page.

    ''
    + lib.concatMapStringsSep "\n" option (ours prefixes (declared modules));
in
{
  "options.md" = page {
    title = "Options of a guest";
    introduction = "What `mvm.lib.mkGuest` takes in its modules.";
    modules = [ ../modules/guest ];
  };
  "options-nixos.md" = page {
    title = "Options of the NixOS module";
    introduction = "What `mvm.nixosModules.default` adds to a NixOS configuration.";
    modules = [
      (import ../modules/nixos {
        mvm = stub.fakeMvm;
        inherit (stub) packagesFor;
      })
    ];
    prefixes = [
      "programs.mvm"
      "services.mvm"
    ];
  };
  "options-darwin.md" = page {
    title = "Options of the nix-darwin module";
    introduction = "What `mvm.darwinModules.default` adds to a nix-darwin configuration.";
    modules = [ (import ../modules/darwin { inherit (stub) packagesFor; }) ];
    prefixes = [ "services.mvm" ];
  };
}
