# Files and folders of the image.
{ lib, ... }:
let
  inherit (lib) mkOption types literalExpression;
  own = import ./types.nix { inherit lib; };
  owner = {
    user = mkOption {
      type = types.str;
      default = "root";
      description = "Owner: a user's name.";
    };
    group = mkOption {
      type = types.nullOr types.str;
      default = null;
      description = "Group: a name; `null` for the main group of the owner.";
    };
  };
  file = {
    options = owner // {
      text = mkOption {
        type = types.nullOr types.lines;
        default = null;
        description = "The content. Store paths in it become part of the image.";
      };
      source = mkOption {
        type = types.nullOr types.path;
        default = null;
        example = literalExpression "./site.conf";
        description = "A file or folder to link to in the image's store, or a file to copy where `mode` is set.";
      };
      mode = mkOption {
        type = types.nullOr own.mode;
        default = null;
        defaultText = literalExpression ''"0644" for a text; a source is linked'';
        description = "Mode of the file. Everybody can read what lies in a Nix store, so it hides nothing from the host.";
      };
    };
  };
  directory = {
    options = owner // {
      mode = mkOption {
        type = own.mode;
        default = "0755";
        description = "Mode of the folder.";
      };
    };
  };
in
{
  options = {
    files = mkOption {
      type = types.attrsOf (types.submodule file);
      default = { };
      example = literalExpression ''{ "/etc/motd".text = "hello"; }'';
      description = "Files by absolute path. A file that the image would have anyway is replaced.";
    };
    directories = mkOption {
      type = types.attrsOf (types.submodule directory);
      default = { };
      example = literalExpression ''{ "/var/lib/app" = { user = "app"; mode = "0700"; }; }'';
      description = "Folders by absolute path.";
    };
  };
}
