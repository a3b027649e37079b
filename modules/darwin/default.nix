# mvm on macOS with nix-darwin: the tool, a Lima machine for what only Linux can do, a Linux builder for images, and VMs
# that are started at login.
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
  # Written as JSON, which YAML contains.
  instance = pkgs.writeText "mvm-lima.yaml" (
    builtins.toJSON {
      vmType = "vz";
      inherit (cfg.lima) cpus nestedVirtualization;
      memory = "${toString cfg.lima.memory}MiB";
      disk = "${toString cfg.lima.disk}GiB";
      images =
        map
          (arch: {
            location = "https://cloud.debian.org/images/cloud/trixie/latest/debian-13-genericcloud-${
              if arch == "aarch64" then "arm64" else "amd64"
            }.qcow2";
            inherit arch;
          })
          [
            "aarch64"
            "x86_64"
          ];
      # What flakes are in: read by the machine, never written.
      mounts = [ { location = "~"; } ];
      containerd = {
        system = false;
        user = false;
      };
      provision = [
        {
          mode = "system";
          script = ''
            #!/bin/sh
            set -eu
            command -v nix >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends nix-setup-systemd git
            usermod -aG nix-users,kvm "{{.User}}"
            printf 'experimental-features = nix-command flakes\n' >/etc/nix/nix.conf
            modprobe -a kvm vhost_vsock tun || true
            printf 'kvm\nvhost_vsock\ntun\n' >/etc/modules-load.d/mvm.conf
            printf 'KERNEL=="vhost-vsock", GROUP="kvm", MODE="0660"\n' >/etc/udev/rules.d/60-mvm.rules
            udevadm control --reload
            udevadm trigger --name-match=vhost-vsock || true
          '';
        }
        {
          mode = "user";
          # mvmctl brings Firecracker along (nix/packages/mvmctl.nix).
          script = ''
            #!/bin/sh
            set -eu
            command -v mvmctl >/dev/null || nix profile install '${cfg.lima.flake}#mvmctl'
          '';
        }
      ];
    }
  );
  limactl = "${cfg.lima.package}/bin/limactl";
  # Made once, then only started.
  startLima = pkgs.writeShellScript "mvm-lima" ''
    set -eu
    exec >>"$HOME/Library/Logs/mvm-lima.log" 2>&1
    if ! ${limactl} list --quiet | grep -qx mvm; then
      exec ${limactl} start --tty=false --name mvm ${instance}
    fi
    exec ${limactl} start --tty=false mvm
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
        type = types.str;
        example = "github:me/mvm";
        description = "Where the machine installs mvmctl from.";
      };
      nestedVirtualization = mkOption {
        type = types.bool;
        default = true;
        description = ''
          Whether the machine has KVM. Firecracker needs it; it takes an M3 and macOS 15 or later. Without it VMs in the
          machine run in software.
        '';
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
