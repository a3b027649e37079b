# A Node.js to run programs with: `mvmctl exec NAME -- node …`.
{ pkgs, ... }:
{
  name = "node";
  dev = true;
  packages = [ pkgs.nodejs ];
  users.user = {
    uid = 1000;
    home = "/home/user";
  };
  resources.memory = 512;
}
