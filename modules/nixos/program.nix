# programs.mvm: the tool, and devices that its users may open.
{ packagesFor }:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.programs.mvm;
in
{
  options.programs.mvm = {
    enable = lib.mkEnableOption "mvmctl, which runs Nix flakes as microVMs";
    package = lib.mkOption {
      type = lib.types.package;
      default = (packagesFor pkgs.stdenv.hostPlatform.system).mvmctl;
      defaultText = lib.literalExpression "mvm.packages.\${system}.mvmctl";
      description = "The package of mvmctl.";
    };
    users = lib.mkOption {
      type = lib.types.listOf lib.types.str;
      default = [ ];
      example = [ "alice" ];
      description = ''
        Users who run VMs without being root: they join the groups `mvm` and `kvm` and get a range of subordinate user
        numbers.
      '';
    };
  };

  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];
    # The CPU's own half of KVM comes by itself, for the CPU that is there.
    boot.kernelModules = [
      "kvm"
      "tun"
      "vhost_vsock"
    ];
    users.groups.mvm = { };
    users.users = lib.genAttrs cfg.users (_: {
      extraGroups = [
        "mvm"
        "kvm"
      ];
      autoSubUidGidRange = lib.mkDefault true;
    });
    # /dev/kvm belongs to the group kvm already; the other two to nobody but root.
    services.udev.extraRules = ''
      KERNEL=="vhost-vsock", GROUP="mvm", MODE="0660"
      KERNEL=="tun", GROUP="mvm", MODE="0666", OPTIONS+="static_node=net/tun"
    '';
  };
}
