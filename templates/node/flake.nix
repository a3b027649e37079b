{
  description = "A web service in Node.js";

  inputs.mvm.url = "flake:mvm";

  outputs =
    { self, mvm }:
    {
      packages = mvm.lib.eachSystem (system: {
        default = mvm.lib.mkNodeService {
          inherit system;
          name = "service";
          # With dependencies: build them with buildNpmPackage, and give the result.
          src = ./app;
          hostPort = 3000;
        };
      });
    };
}
