{
  description = "PostgreSQL with a database of your own";

  inputs.mvm.url = "flake:mvm";

  outputs =
    { self, mvm }:
    {
      packages = mvm.lib.eachSystem (system: {
        default = mvm.lib.mkGuest {
          inherit system;
          # The image of mvm's catalog, and what is ours.
          modules = [
            "${mvm}/catalog/postgres"
            ./guest.nix
          ];
        };
      });
    };
}
