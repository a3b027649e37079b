# What the guest lets its host do. Closed unless opened, and enforced by the agent inside the guest.
{ config, lib, ... }:
let
  inherit (lib) mkOption types literalExpression;
  open =
    what:
    mkOption {
      type = types.bool;
      default = config.dev;
      defaultText = literalExpression "config.dev";
      description = what;
    };
in
{
  options = {
    dev = mkOption {
      type = types.bool;
      default = false;
      description = "Whether this is an image to develop with: opens everything under `access`.";
    };

    sealed = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether nobody gets in, whatever another module says: with `access.console`, `access.exec` or `access.files` opened
        the image is refused when it is evaluated.
      '';
    };

    access = {
      console = open "Whether `mvmctl console` opens a shell in the guest.";
      exec = open "Whether `mvmctl exec` runs commands in the guest.";
      files = open "Whether `mvmctl cp` copies files into the guest and out of it.";
      forward = open ''
        Whether `mvmctl forward` and published ports reach TCP ports of the guest. Any port: what the guest wants to keep
        from its host must not listen.
      '';
      consoleIdleTimeout = mkOption {
        type = types.ints.between 1 604800;
        default = 900;
        description = "Seconds without a byte in either direction after which a console session ends.";
      };
    };
  };
}
