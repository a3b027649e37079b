# The darwin module, evaluated with nix-darwin's real ones. eval: modules -> nix-darwin configuration.
{ lib, eval }:
let
  stub = import ./stub.nix { inherit lib; };
  config =
    module:
    (eval [
      (import ../../modules/darwin { inherit (stub) packagesFor; })
      module
    ]).config;
  failures = config: map (a: a.message) (lib.filter (a: !a.assertion) config.assertions);
  equals = expected: actual: { inherit expected actual; };
  full = config {
    services.mvm = {
      enable = true;
      lima = {
        enable = true;
        flake = "github:me/mvm";
        package = stub.mvm.base;
      };
      autostart.web = "github:me/site#vm";
    };
  };
  agents = full.launchd.user.agents;
  plist = name: full.environment.userLaunchAgents."org.nixos.${name}.plist".text;
in
{
  tests = {
    "nothing is there unless asked for" = equals false ((config { }).launchd.user.agents ? mvm-web);
    "the tool is installed" = equals true (
      builtins.elem "mvmctl" (map (package: package.name or "") full.environment.systemPackages)
    );
    "images are built by the Linux builder" = equals true full.nix.linux-builder.enable;
    "which can be left away" = equals false (
      (config {
        services.mvm = {
          enable = true;
          linuxBuilder = false;
        };
      }).nix.linux-builder.enable
    );
    "a VM is an agent that starts at login" = equals true agents.mvm-web.serviceConfig.RunAtLoad;
    "launchd gets its agents" = equals true (
      lib.all (name: lib.hasInfix "<key>RunAtLoad</key>" (plist name)) [
        "mvm-web"
        "mvm-lima"
      ]
    );
    "a VM that stops by itself is started again" =
      equals false agents.mvm-web.serviceConfig.KeepAlive.SuccessfulExit;
    "a name that is none" = equals true (
      lib.any (lib.hasInfix "use lower-case letters") (
        failures (config {
          services.mvm = {
            enable = true;
            autostart.Web = "x";
          };
        })
      )
    );
  };
  errors = { };
}
