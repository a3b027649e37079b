{ pkgs, ... }:
{
  networking.hostName = "machine";
  environment.systemPackages = [ pkgs.htop ];
  services.nginx = {
    enable = true;
    virtualHosts.default.root = pkgs.writeTextDir "index.html" "Hello from NixOS in a microVM.\n";
  };

  # What mvm has to know: who gets in, and which ports are published.
  mvm = {
    dev = true;
    ports.http = {
      guest = 80;
      host = 8080;
    };
  };

  system.stateVersion = "26.05";
}
