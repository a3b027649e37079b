{
  description = "From a Nix flake to a running microVM in one command";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
    microvm = {
      url = "github:microvm-nix/microvm.nix";
      inputs.nixpkgs.follows = "nixpkgs";
    };
  };

  outputs =
    {
      self,
      nixpkgs,
      microvm,
    }:
    let
      inherit (nixpkgs) lib;
      inherit (mvm) eachSystem;
      eachLinux = lib.genAttrs (lib.filter (lib.hasSuffix "-linux") mvm.systems);
      pkgsFor = system: nixpkgs.legacyPackages.${system};
      packagesFor =
        system:
        import ./nix/packages {
          inherit lib flake;
          pkgs = pkgsFor system;
        };
      # Where mvmctl finds the catalog that belongs to it.
      flake = "path:${self}";
      mvm = import ./nix/lib.nix { inherit lib pkgsFor packagesFor; };
      parts = {
        inherit
          self
          lib
          nixpkgs
          microvm
          mvm
          pkgsFor
          packagesFor
          ;
      };
    in
    {
      lib = mvm;
      # What `mvmctl image fetch` builds; on a Mac, what its Linux builder builds.
      catalog = eachSystem (import ./nix/catalog.nix parts);
      packages = eachSystem (import ./nix/outputs/packages.nix parts);
      apps = eachSystem (import ./nix/outputs/apps.nix parts);
      checks = eachLinux (import ./nix/outputs/checks.nix parts);
      devShells = eachSystem (import ./nix/outputs/dev-shells.nix parts);
      formatter = eachSystem (system: (pkgsFor system).nixfmt-tree);

      overlays.default =
        final: _:
        let
          packages = import ./nix/packages {
            inherit lib flake;
            pkgs = final;
          };
        in
        {
          inherit (packages) mvmctl;
        }
        // lib.optionalAttrs final.stdenv.hostPlatform.isLinux {
          inherit (packages) mvm-guest;
          mvm-kernel = packages.kernel;
        };

      nixosModules = {
        default = import ./modules/nixos { inherit mvm packagesFor; };
        guest = import ./modules/microvm/guest.nix { inherit mvm; };
        microvm = {
          imports = [
            microvm.nixosModules.microvm
            self.nixosModules.guest
            ./modules/microvm
          ];
        };
      };
      darwinModules.default = import ./modules/darwin { inherit packagesFor; };

      templates = import ./templates;
    };
}
