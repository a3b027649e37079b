# A development box: Nix, git, a compiler and the usual tools, with everything open.
{
  config,
  lib,
  pkgs,
  ...
}:
{
  name = "dev";
  dev = true;
  packages = [
    pkgs.bashInteractive
    pkgs.coreutils
    pkgs.curl
    pkgs.gcc
    pkgs.git
    pkgs.gnumake
    pkgs.nix
  ];
  shell = [
    "${pkgs.bashInteractive}/bin/bash"
    "-l"
  ];
  env.SSL_CERT_FILE = "${pkgs.cacert}/etc/ssl/certs/ca-bundle.crt";
  files."/etc/nix/nix.conf".text = ''
    experimental-features = nix-command flakes
    build-users-group =
    sandbox = false
  '';
  # What the image brought is Nix's to use, not to fetch again.
  files."/nix/registration".source = "${
    pkgs.closureInfo { rootPaths = config.packages; }
  }/registration";
  services.nix-store = {
    command = [
      "/bin/sh"
      "-c"
      "${pkgs.nix}/bin/nix-store --load-db </nix/registration"
    ];
    restart = "no";
  };
  directories."/home/user" = {
    user = "user";
  };
  users.user.uid = 1000;
  resources = {
    vcpus = lib.mkDefault 2;
    memory = lib.mkDefault "2G";
  };
}
