{
  description = "NixOS with systemd";

  inputs.mvm.url = "flake:mvm";
  inputs.nixpkgs.follows = "mvm/nixpkgs";

  outputs =
    {
      self,
      mvm,
      nixpkgs,
    }:
    let
      machine =
        system:
        nixpkgs.lib.nixosSystem {
          modules = [
            mvm.nixosModules.guest
            ./configuration.nix
            { nixpkgs.hostPlatform = mvm.lib.guestSystem system; }
          ];
        };
    in
    {
      nixosConfigurations.machine = machine "x86_64-linux";
      packages = mvm.lib.eachSystem (system: {
        default = (machine system).config.system.build.mvmImage;
      });
    };
}
