# Types that several options share.
{ lib }:
let
  inherit (lib) types;
  units = {
    "" = 1;
    M = 1;
    G = 1024;
    T = 1024 * 1024;
  };
in
rec {
  # "512" or "512M" to a number of MiB.
  toMiB =
    size:
    let
      parts = builtins.match "([0-9]+)([MGT]?)" size;
    in
    lib.toInt (builtins.elemAt parts 0) * units.${builtins.elemAt parts 1};

  size = types.coercedTo types.ints.positive toString (types.strMatching "[1-9][0-9]*[MGT]?") // {
    description = "size in MiB, or a string such as \"512M\" or \"4G\"";
  };

  # One program with its arguments; a path alone is a program without arguments.
  command =
    types.coercedTo (types.either types.package types.str) (program: [ "${program}" ]) (
      types.listOf types.str
    )
    // {
      description = "program and its arguments as a list of strings, or the path of a program alone";
      # Not the empty list that other lists are where nobody sets them: a command has to be given.
      emptyValue = { };
    };

  # What tells that a service is ready: one of three.
  readiness =
    types.coercedTo command (command: { inherit command; }) (
      types.submodule {
        options = {
          command = lib.mkOption {
            type = types.nullOr command;
            default = null;
            description = "A command that succeeds once the service can be used, run again and again as its user and in its environment.";
          };
          port = lib.mkOption {
            type = types.nullOr (types.ints.between 1 65535);
            default = null;
            description = "A TCP port of the guest that takes connections once the service can be used.";
          };
          notify = lib.mkOption {
            type = types.bool;
            default = false;
            description = "Whether the service tells by itself, by `READY=1` to `$NOTIFY_SOCKET` as for systemd's `Type=notify`.";
          };
          timeout = lib.mkOption {
            type = types.ints.between 1 86400;
            default = 60;
            description = "Seconds that the VM's readiness waits at most.";
          };
        };
      }
    )
    // {
      description = "command, or one of `command`, `port` and `notify`";
    };

  absolutePath = types.strMatching "/[^\n]*" // {
    description = "absolute path in the guest";
  };

  name = types.strMatching "[a-z_][a-z0-9_-]{0,31}" // {
    description = "name of lower-case letters, digits, - and _, at most 32";
  };

  address =
    let
      octet = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
      v4 = "${octet}\\.${octet}\\.${octet}\\.${octet}";
    in
    types.strMatching "${v4}|[0-9a-f:]*:[0-9a-f:]*"
    // {
      description = "IPv4 or IPv6 address";
    };

  mode = types.strMatching "0?[0-7]{3}|1[0-7]{3}" // {
    description = "file mode in octal, such as \"0644\"";
  };

  env = types.attrsOf types.str;
}
