# Users and groups. Nobody has a password: who comes in comes through the agent.
{ config, lib, ... }:
let
  inherit (lib) mkOption types literalExpression;
  own = import ./types.nix { inherit lib; };
  field = types.strMatching "[^:\n]*";
  id = types.ints.between 1 65533;
  user =
    { config, ... }:
    {
      options = {
        uid = mkOption {
          type = id;
          example = 1000;
          description = "The user's number. It has to be chosen, so that files of VMs keep their owners when users come and go.";
        };
        gid = mkOption {
          type = types.ints.between 0 65534;
          default = config.uid;
          defaultText = literalExpression "config.uid";
          description = "Number of the main group. A group of the user's name is made where no other has this number.";
        };
        groups = mkOption {
          type = types.listOf own.name;
          default = [ ];
          description = "Names of further groups.";
        };
        home = mkOption {
          type = types.nullOr (types.strMatching "/[^:\n]*");
          default = null;
          example = "/home/user";
          description = "Home folder, made with mode 0750 and owned by the user; `null` for none.";
        };
        shell = mkOption {
          type = field;
          default = "/bin/sh";
          description = "Login shell.";
        };
        description = mkOption {
          type = field;
          default = "";
          description = "Who this is.";
        };
      };
    };
  group = {
    options.gid = mkOption {
      type = types.ints.between 1 65533;
      description = "The group's number.";
    };
  };
in
{
  options = {
    users = mkOption {
      type = types.attrsOf (types.submodule user);
      default = { };
      description = "Users besides `root` and `nobody`, by name.";
    };
    groups = mkOption {
      type = types.attrsOf (types.submodule group);
      default = { };
      description = "Groups besides `root`, `tty`, `nogroup` and those of the users, by name.";
    };
  };

  config.directories = lib.mkMerge (
    lib.mapAttrsToList (
      name: user:
      lib.mkIf (user.home != null) {
        ${user.home} = {
          user = name;
          mode = lib.mkDefault "0750";
        };
      }
    ) config.users
  );
}
