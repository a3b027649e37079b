# What outlives a VM or is kept from its image: volumes and secrets.
{ lib, ... }:
let
  inherit (lib) mkOption types;
  own = import ./types.nix { inherit lib; };
  volume = {
    options = {
      mountPoint = mkOption {
        type = own.absolutePath;
        example = "/var/lib/postgresql";
        description = "Where it is mounted in the guest, before any service is started.";
      };
      size = mkOption {
        type = own.size;
        default = "8G";
        description = ''
          Size of the volume when it is made, 16M to 16T. It takes of the host's disk what is written to it; one that is there
          already stays as it is.
        '';
      };
      user = mkOption {
        type = types.str;
        default = "root";
        description = "Who owns the mount point: a user's name.";
      };
      group = mkOption {
        type = types.nullOr types.str;
        default = null;
        description = "Its group: a name; `null` for the main group of the owner.";
      };
      mode = mkOption {
        type = own.mode;
        default = "0755";
        description = "Its mode.";
      };
    };
  };
  secret = {
    options = {
      user = mkOption {
        type = types.str;
        default = "root";
        description = "Whose it is: a user's name.";
      };
      group = mkOption {
        type = types.nullOr types.str;
        default = null;
        description = "Its group: a name; `null` for the main group of the owner.";
      };
      path = mkOption {
        type = types.nullOr own.absolutePath;
        default = null;
        example = "/etc/app/key";
        description = "A link to it, for programs that look elsewhere than in `/run/secrets`.";
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
      description = ''
        Persistent volumes of each VM of this image, by name. They outlive the VM: a later one of the same name finds them
        again, until `mvmctl rm --volumes`.
      '';
    };
    secrets = mkOption {
      type = types.attrsOf (types.submodule secret);
      default = { };
      example = {
        db-password.user = "app";
      };
      description = ''
        Secrets that a VM of this image is given at each start with `mvmctl up --secret NAME=FILE`, and without which it does
        not start. Services find them in `/run/secrets`, in memory. Their content is neither in the image nor on the host's
        disk.
      '';
    };
  };
}
