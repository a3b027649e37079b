# What outlives a VM or is kept from its image: volumes and secrets.
{ lib, ... }:
let
  inherit (lib) mkOption types;
  own = import ./types.nix { inherit lib; };
  volume = {
    options = {
      mountPoint = mkOption {
        type = own.absolutePath;
        description = "Where it is mounted in the guest.";
      };
      size = mkOption {
        type = own.size;
        description = "Size of the volume when it is made.";
      };
    };
  };
  secret = {
    options = {
      user = mkOption {
        type = types.str;
        default = "root";
        description = "Who may read it.";
      };
      mode = mkOption {
        type = own.mode;
        default = "0400";
        description = "Mode of its file.";
      };
    };
  };
in
{
  options = {
    volumes = mkOption {
      type = types.attrsOf (types.submodule volume);
      default = { };
      description = "Persistent volumes that a VM of this image needs, by name. Not supported yet: an image that asks for it is refused.";
    };
    secrets = mkOption {
      type = types.attrsOf (types.submodule secret);
      default = { };
      description = "Secrets that a VM of this image is given at its start, by name. Their content never is in the image. Not supported yet: an image that asks for it is refused.";
    };
  };
}
