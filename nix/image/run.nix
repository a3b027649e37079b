# A derivation that is a shell script and nothing more: it needs no stdenv, so the same builders run from nixpkgs' tools
# and from the static tools of a machine that has no nixpkgs.
#
# tools: { system; shell, mke2fs, debugfs, cpio: a program with its first arguments; path: where the shell finds the rest }
{ tools }:
let
  words = builtins.concatStringsSep " ";
  quote = value: "'${builtins.replaceStrings [ "'" ] [ "'\\''" ] "${value}"}'";
in
{
  name,
  # The file that is run.
  script,
  # Shell variables of the script.
  variables ? { },
  # Further attributes of the derivation.
  attributes ? { },
}:
derivation (
  {
    inherit name;
    inherit (tools) system;
    builder = builtins.head tools.shell;
    # As an argument, since a derivation with structured attributes has no environment.
    args = builtins.tail tools.shell ++ [
      "-euc"
      ''
        export PATH=${quote tools.path} LC_ALL=C TZ=UTC
        out=${builtins.placeholder "out"}
        # Commands with arguments: they are used unquoted, and store paths have no blanks.
        mke2fs=${quote (words tools.mke2fs)}
        debugfs=${quote (words tools.debugfs)}
        cpio=${quote (words tools.cpio)}
        ${builtins.concatStringsSep "\n" (
          builtins.attrValues (builtins.mapAttrs (name: value: "${name}=${quote value}") variables)
        )}
        umask 022
        . ${script}
        # Some Nix versions kill a builder whose last command closes its outputs before it ends.
        exit 0
      ''
    ];
  }
  // attributes
)
