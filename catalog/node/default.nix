# A Node.js to run programs with: `mvmctl exec NAME -- node …`.
{ lib, pkgs, ... }:
{
  name = "node";
  dev = true;
  packages = [ pkgs.nodejs ];
  users.user = {
    uid = 1000;
    home = "/home/user";
  };
  resources.memory = lib.mkDefault 512;
}
