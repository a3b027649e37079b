{
  name = "worker";
  # Nobody gets in, whatever another module says.
  sealed = true;
  services.worker = {
    command = [
      "/bin/sh"
      "${./job.sh}"
    ];
    # Started again when it ends, with back-off.
    restart = "always";
    user = "worker";
    workingDirectory = "/var/lib/worker";
  };
  users.worker = {
    uid = 1000;
    home = "/var/lib/worker";
  };
  resources.memory = 128;
}
