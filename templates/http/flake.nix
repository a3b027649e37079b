{
  description = "A static site";

  inputs.mvm.url = "flake:mvm";

  outputs =
    { self, mvm }:
    {
      packages = mvm.lib.eachSystem (system: {
        default = mvm.lib.mkStaticSite {
          inherit system;
          name = "site";
          root = ./site;
          hostPort = 8080;
        };
      });
    };
}
