# A small NixOS with systemd: add modules of your own in a flake (templates/nixos).
{ modulesPath, ... }:
{
  imports = [ "${modulesPath}/profiles/minimal.nix" ];
  mvm = {
    name = "nixos";
    access = {
      console = true;
      exec = true;
      files = true;
      forward = true;
    };
  };
  # A machine that is made anew has no state to be compatible with.
  system.stateVersion = "26.05";
}
