# A Python to run programs with: `mvmctl exec NAME -- python3 …`.
{ lib, pkgs, ... }:
{
  name = "python";
  dev = true;
  packages = [ pkgs.python3 ];
  env.PYTHONUNBUFFERED = "1";
  users.user = {
    uid = 1000;
    home = "/home/user";
  };
  resources.memory = lib.mkDefault 512;
}
