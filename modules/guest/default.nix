# The options of a guest. Evaluate them with nix/guest.nix; what comes out is config.build.image's arguments.
{
  imports = [
    ./access.nix
    ./assertions.nix
    ./build.nix
    ./files.nix
    ./health.nix
    ./image.nix
    ./network.nix
    ./services.nix
    ./storage.nix
    ./users.nix
  ];
}
