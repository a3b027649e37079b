# What `nix flake init -t mvm#NAME` and `mvmctl template init --preset NAME` copy.
let
  template = name: description: {
    path = ./. + "/${name}";
    inherit description;
  };
in
rec {
  default = minimal;
  minimal = template "minimal" "A guest with a shell";
  http = template "http" "A static site";
  python = template "python" "A web service in Python";
  node = template "node" "A web service in Node.js";
  worker = template "worker" "A job that runs again and again, closed to its host";
  postgres = template "postgres" "PostgreSQL with a database of your own";
  nixos = template "nixos" "NixOS with systemd";
}
