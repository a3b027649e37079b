# Processes that the guest's init keeps running.
{ lib, ... }:
let
  inherit (lib) mkOption types literalExpression;
  own = import ./types.nix { inherit lib; };
  service = {
    options = {
      command = mkOption {
        type = own.command;
        example = literalExpression ''[ "''${pkgs.nginx}/bin/nginx" "-g" "daemon off;" ]'';
        description = ''
          The program, which must stay in the foreground, and its first arguments. No shell reads it: where one is wanted,
          write `[ "/bin/sh" "-c" "…" ]`.
        '';
      };
      args = mkOption {
        type = types.listOf types.str;
        default = [ ];
        description = "Further arguments, after those in `command`; several modules can add some.";
      };
      preStart = mkOption {
        type = types.nullOr own.command;
        default = null;
        description = ''
          A command that runs to its end before each start, with the service's user, folder and environment. If it fails,
          the service counts as failed.
        '';
      };
      env = mkOption {
        type = own.env;
        default = { };
        description = "Environment, over that of the guest.";
      };
      user = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "www";
        description = "User name or number, also `USER:GROUP`; `null` for root. Names must be declared in `users`.";
      };
      workingDirectory = mkOption {
        type = types.nullOr own.absolutePath;
        default = null;
        description = "Working directory; `null` for `/`.";
      };
      restart = mkOption {
        type = types.enum [
          "always"
          "on-failure"
          "no"
        ];
        default = "always";
        description = "When the service is started again after its end. With back-off: 0.1 s, doubling to 30 s.";
      };
      logFile = mkOption {
        type = types.nullOr own.absolutePath;
        default = null;
        example = "/var/log/web.log";
        description = "File for stdout and stderr; `null` for the console, which `mvmctl logs` shows.";
      };
      readiness = mkOption {
        type = types.nullOr own.readiness;
        default = null;
        example = literalExpression "{ port = 8080; }";
        description = ''
          When the service can be used; `null` for as soon as it has been started. The VM is not ready before, for at most
          `timeout` seconds; then it is degraded for as long as the service is not ready. A command alone stands for
          `{ command = …; }`.
        '';
      };
    };
  };
in
{
  options.services = mkOption {
    type = types.attrsOf (types.submodule service);
    default = { };
    description = "Services by name. The VM is ready when each has been started, and is ready where it has a `readiness`.";
  };
}
