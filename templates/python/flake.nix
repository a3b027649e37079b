{
  description = "A web service in Python";

  inputs.mvm.url = "flake:mvm";

  outputs =
    { self, mvm }:
    {
      packages = mvm.lib.eachSystem (system: {
        default = mvm.lib.mkPythonService {
          inherit system;
          name = "service";
          src = ./app;
          # Packages of nixpkgs: (ps: [ ps.flask ])
          packages = ps: [ ];
          hostPort = 8000;
        };
      });
    };
}
