{
  description = "A job that runs again and again, closed to its host";

  inputs.mvm.url = "flake:mvm";

  outputs =
    { self, mvm }:
    {
      packages = mvm.lib.eachSystem (system: {
        default = mvm.lib.mkGuest {
          inherit system;
          modules = [ ./guest.nix ];
        };
      });
    };
}
