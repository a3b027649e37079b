# mvm on macOS with nix-darwin: the tool, a Lima machine for what only Linux can do (mvmctl makes it), a Linux builder
# for images, and VMs that are started at login.
{ packagesFor }:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.mvm;
  limactl = "${cfg.lima.package}/bin/limactl";
  # `mvmctl dev up` knows what the machine has to be; only its sizes are settled here, when it is made.
  startLima = pkgs.writeShellScript "mvm-lima" ''
    set -eu
    exec >>"$HOME/Library/Logs/mvm-lima.log" 2>&1
    export MVM_LIMA=mvm MVM_LIMACTL=${limactl}
    ${lib.optionalString (
      cfg.lima.flake != null
    ) "export MVM_FLAKE=${lib.escapeShellArg cfg.lima.flake}"}
    if ! ${limactl} list --quiet | grep -qx mvm; then
      set -- --cpus ${toString cfg.lima.cpus} --memory ${toString cfg.lima.memory}M --disk ${toString cfg.lima.disk}
    fi
    exec ${cfg.package}/bin/mvmctl dev up "$@"
  '';
  # In the foreground, so that launchd knows it; its console is the log.
  startVm =
    name: flake:
    pkgs.writeShellScript "mvm-${name}" ''
      exec >>"$HOME/Library/Logs/mvm-${name}.log" 2>&1
      exec ${cfg.package}/bin/mvmctl up --rm --name ${lib.escapeShellArg name} --flake ${lib.escapeShellArg flake}
    '';
in
{
  options.services.mvm = {
    enable = lib.mkEnableOption "mvmctl, which runs Nix flakes as microVMs";
    package = mkOption {
      type = types.package;
      default = (packagesFor pkgs.stdenv.hostPlatform.system).mvmctl;
      defaultText = lib.literalExpression "mvm.packages.\${system}.mvmctl";
      description = "The package of mvmctl.";
    };
    linuxBuilder = mkOption {
      type = types.bool;
      default = true;
      description = "Whether nix-darwin's Linux builder is set up: images are Linux programs.";
    };
    lima = {
      enable = lib.mkEnableOption "a Lima machine named `mvm` with mvmctl and Firecracker inside, for a macOS before 26";
      package = mkOption {
        type = types.package;
        default = pkgs.lima;
        defaultText = lib.literalExpression "pkgs.lima";
        description = "The package of Lima.";
      };
      flake = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "github:me/mvm";
        description = "Where the machine installs mvmctl from; the flake of the package where it is null.";
      };
      cpus = mkOption {
        type = types.ints.positive;
        default = 2;
        description = "Virtual CPUs of the machine.";
      };
      memory = mkOption {
        type = types.ints.positive;
        default = 4096;
        description = "Memory of the machine in MiB.";
      };
      disk = mkOption {
        type = types.ints.positive;
        default = 60;
        description = "Disk of the machine in GiB.";
      };
    };
    autostart = mkOption {
      type = types.attrsOf types.str;
      default = { };
      example = {
        web = "github:me/site#vm";
      };
      description = "VMs that are started at login: flake refs by name.";
    };
  };

  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ] ++ lib.optional cfg.lima.enable cfg.lima.package;
    nix.linux-builder.enable = lib.mkIf cfg.linuxBuilder (lib.mkDefault true);
    launchd.user.agents =
      lib.optionalAttrs cfg.lima.enable {
        mvm-lima = {
          command = "${startLima}";
          serviceConfig.RunAtLoad = true;
        };
      }
      // lib.mapAttrs' (
        name: flake:
        lib.nameValuePair "mvm-${name}" {
          # Nix is the system's.
          path = [ config.environment.systemPath ];
          command = "${startVm name flake}";
          serviceConfig = {
            RunAtLoad = true;
            KeepAlive.SuccessfulExit = false;
          };
        }
      ) cfg.autostart;
    assertions = lib.mapAttrsToList (name: _: {
      assertion = builtins.match "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?" name != null;
      message = "services.mvm.autostart.${name}: use lower-case letters, digits and inner hyphens, at most 63";
    }) cfg.autostart;
  };
}
