# PostgreSQL with its data in the VM's own layer, which is kept until the VM is removed; `up -v data:/var/lib/postgresql`
# keeps it in a volume, which outlives the VM.
{ lib, pkgs, ... }:
let
  inherit (pkgs) postgresql;
  data = "/var/lib/postgresql/data";
  isReady = [
    "${postgresql}/bin/pg_isready"
    "-h"
    "127.0.0.1"
    "-U"
    "postgres"
  ];
  # Only once: what is there stays. Who can reach the port is a matter of the guest channel, so no password is asked for.
  prepare = builtins.toFile "prepare-postgres" ''
    [ -e ${data}/PG_VERSION ] || exec initdb --pgdata=${data} --username=postgres --auth=trust --encoding=UTF8 --locale=C
  '';
in
{
  name = "postgres";
  packages = [ postgresql ];
  services.postgres = {
    command = "${postgresql}/bin/postgres";
    args = [
      "-D"
      data
      "-c"
      "listen_addresses=127.0.0.1"
      "-c"
      "unix_socket_directories=/var/lib/postgresql"
    ];
    preStart = [
      "/bin/sh"
      "-eu"
      "${prepare}"
    ];
    user = "postgres";
    workingDirectory = "/var/lib/postgresql";
    # Its first start makes the cluster.
    readiness = {
      command = isReady;
      timeout = 120;
    };
  };
  users.postgres = {
    uid = 71;
    home = "/var/lib/postgresql";
  };
  healthChecks.postgres = {
    command = isReady;
    startupGrace = 120;
  };
  access.forward = true;
  ports.postgres = {
    guest = 5432;
    host = lib.mkDefault 5432;
    service = "postgres";
  };
  resources.memory = lib.mkDefault 512;
}
