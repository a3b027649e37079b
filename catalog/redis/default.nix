# Redis with an append-only file in the VM's own layer, or in a volume: `up -v data:/var/lib/redis`.
{ lib, pkgs, ... }:
{
  name = "redis";
  packages = [ pkgs.redis ];
  services.redis = {
    command = "${pkgs.redis}/bin/redis-server";
    args = [
      "--bind"
      "127.0.0.1"
      "--dir"
      "/var/lib/redis"
      "--appendonly"
      "yes"
    ];
    user = "redis";
    workingDirectory = "/var/lib/redis";
    readiness.port = 6379;
  };
  users.redis = {
    uid = 72;
    home = "/var/lib/redis";
  };
  healthChecks.redis.command = [
    "${pkgs.redis}/bin/redis-cli"
    "-h"
    "127.0.0.1"
    "-e"
    "ping"
  ];
  access.forward = true;
  ports.redis = {
    guest = 6379;
    host = lib.mkDefault 6379;
    service = "redis";
  };
}
