# A NixOS configuration that uses microvm.nix, as an mvm image: config.system.build.mvmImage is the same system with mvm's
# root, kernel and agent in place of microvm.nix's. The configuration itself stays as it is, its runner included.
{
  config,
  lib,
  extendModules,
  ...
}:
let
  inherit (config) microvm;
  refuse = option: what: {
    assertion = microvm.${option} == [ ];
    message = "microvm.${option}: ${what}; `mvmctl up --hypervisor microvm-nix` runs the configuration's own runner";
  };
  variant = extendModules {
    modules = [
      {
        microvm.guest.enable = lib.mkForce false;
        mvm = {
          enable = lib.mkForce true;
          resources = {
            vcpus = lib.mkDefault microvm.vcpu;
            memory = lib.mkDefault microvm.mem;
          };
        };
        assertions = [
          (refuse "volumes" "those of an mvm image are `mvm.volumes`")
          (refuse "devices" "mvm images have no devices of the host")
          (refuse "interfaces" "mvm images have no network card yet")
          {
            # The host's store is what every image of mvm brings itself.
            assertion = lib.all (share: share.source == "/nix/store") microvm.shares;
            message = "microvm.shares: mvm images share no folders with the host; `mvmctl up --hypervisor microvm-nix` runs the configuration's own runner";
          }
        ];
      }
    ];
  };
in
{
  config = lib.mkIf microvm.guest.enable {
    mvm.enable = lib.mkDefault false;
    system.build.mvmImage = variant.config.system.build.mvmImage;
  };
}
