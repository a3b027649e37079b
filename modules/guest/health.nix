# Commands whose exit code tells whether the guest is well.
{ lib, ... }:
let
  inherit (lib) mkOption types literalExpression;
  own = import ./types.nix { inherit lib; };
  seconds =
    default: description:
    mkOption {
      type = types.ints.between 0 86400;
      inherit default;
      description = "${description} In seconds.";
    };
  check = {
    options = {
      command = mkOption {
        type = own.command;
        example = literalExpression ''[ "/bin/wget" "-q" "-O" "-" "http://127.0.0.1/" ]'';
        description = "The command; exit code 0 is healthy. The last line that it prints is shown by `mvmctl inspect`.";
      };
      interval = seconds 10 "Time between runs.";
      timeout = seconds 5 "Time that one run may take.";
      startupGrace = seconds 30 "Time after the start during which a failure does not count.";
    };
  };
in
{
  options.healthChecks = mkOption {
    type = types.attrsOf (types.submodule check);
    default = { };
    description = "Health checks by name. A VM is degraded while one of them fails.";
  };
}
