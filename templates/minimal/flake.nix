{
  description = "A guest with a shell";

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
