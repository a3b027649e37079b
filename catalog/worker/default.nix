# A job that runs again and again, and nobody to talk to: put a command of your own into services.worker.command.
{ lib, ... }:
{
  name = "worker";
  services.worker = {
    command = lib.mkDefault [
      "/bin/sh"
      "-c"
      "date; exec sleep 60"
    ];
    user = "worker";
    workingDirectory = "/var/lib/worker";
  };
  users.worker = {
    uid = 1000;
    home = "/var/lib/worker";
  };
  resources.memory = lib.mkDefault 128;
}
