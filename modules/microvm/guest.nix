# A NixOS as an mvm guest: systemd is its init, mvm-guest a unit, and config.system.build.mvmImage the image.
#
# stage 1 (mvm-guest in the initrd: drives, overlay) ── /sbin/mvm-guest (below) ── NixOS's stage 2 ── systemd ── mvm-agent
{
  mvm,
  # False while mvm-guest does not serve vsock beside another init.
  agentBesideInit ? (import ../../nix/source.nix).agentBesideInit,
}:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.mvm;
  parts = mvm.guestParts pkgs;
  agent = parts.agent.program;

  # What stage 1 executes. It leaves the VM's writable layer on /run, which the overlay holds by itself.
  handover = pkgs.writeScript "mvm-handover" ''
    #!${pkgs.runtimeShell}
    ${pkgs.util-linux}/bin/umount -l /run
    ${pkgs.util-linux}/bin/mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs /run
    exec ${config.system.build.toplevel}/init
  '';

  # The config drive holds the guest's secret key: it is mounted for this moment only.
  readConfig = pkgs.writeShellScript "mvm-agent-config" ''
    set -eu
    umask 077
    at=$RUNTIME_DIRECTORY/drive
    ${pkgs.coreutils}/bin/mkdir "$at"
    ${pkgs.util-linux}/bin/mount -t ext4 -o ro,nosuid,nodev,noexec LABEL=mvm-config "$at"
    ${pkgs.coreutils}/bin/cp "$at/config.json" "$RUNTIME_DIRECTORY/config.json"
    ${pkgs.util-linux}/bin/umount "$at"
    ${pkgs.coreutils}/bin/rmdir "$at"
    ${pkgs.jq}/bin/jq -r .name "$RUNTIME_DIRECTORY/config.json" >/proc/sys/kernel/hostname
  '';

  # Options of modules/guest that NixOS has options of its own for.
  elsewhere = {
    services = "systemd.services";
    healthChecks = "systemd.services";
    users = "users.users";
    groups = "users.groups";
    files = "environment.etc";
    directories = "systemd.tmpfiles";
    packages = "environment.systemPackages";
  };
in
{
  options.mvm = lib.mkOption {
    description = "What mvm has to know of this guest: the options of modules/guest, without those that NixOS has itself.";
    default = { };
    type = lib.types.submoduleWith {
      modules = [
        ../guest
        {
          options.enable = lib.mkOption {
            type = lib.types.bool;
            default = true;
            description = "Whether this system is configured to run as an mvm guest.";
          };
          config = {
            name = lib.mkDefault config.networking.hostName;
            base = null;
            shell = lib.mkDefault [
              "/run/current-system/sw/bin/bash"
              "-l"
            ];
            # systemd and its journal want more than a busybox; what microvm.nix says comes before.
            resources.memory = lib.mkOverride 1200 512;
            kernel.initrd = true;
            env.PATH = lib.mkDefault "/run/wrappers/bin:/run/current-system/sw/bin";
          };
        }
      ];
      specialArgs = {
        inherit pkgs;
        mvm = parts;
      };
    };
  };

  config = lib.mkIf cfg.enable {
    assertions =
      map (a: a // { message = "mvm: ${a.message}"; }) cfg.assertions
      ++ lib.mapAttrsToList (option: instead: {
        assertion = cfg.${option} == (if option == "packages" then [ ] else { });
        message = "mvm.${option} is not for NixOS guests: use ${instead}";
      }) elsewhere
      ++ [
        {
          assertion = agentBesideInit;
          message = "mvm: NixOS guests are not supported yet: mvm-guest cannot serve vsock beside another init";
        }
      ];

    boot = {
      # The kernel and stage 1 are mvm's.
      kernel.enable = false;
      initrd.enable = false;
      initrd.systemd.enable = false;
      bootspec.enable = false;
      modprobeConfig.enable = false;
      loader.grub.enable = false;
    };
    # Made by stage 1.
    fileSystems."/" = {
      device = "overlay";
      fsType = "overlay";
    };
    systemd.shutdownRamfs.enable = false;
    # Logs of the start go where `mvmctl logs` looks.
    systemd.services."serial-getty@ttyS0".enable = false;
    console.enable = lib.mkDefault false;
    documentation.enable = lib.mkDefault false;
    networking.useDHCP = lib.mkDefault false;

    systemd.services.mvm-agent = {
      description = "mvm guest agent";
      wantedBy = [ "multi-user.target" ];
      after = [ "local-fs.target" ];
      # The host asked the guest to stop: a reset is what every VMM takes as the end.
      unitConfig.SuccessAction = "reboot";
      serviceConfig = {
        Type = "exec";
        ExecStartPre = "${readConfig}";
        ExecStart = "${agent} agent --config /run/mvm/config.json --manifest /etc/mvm/guest.json --listen vsock";
        RuntimeDirectory = "mvm";
        RuntimeDirectoryMode = "0700";
        Restart = "on-failure";
        # What `mvmctl exec` started goes with the guest, not with a new agent.
        KillMode = "process";
      };
    };

    system.build.mvmImage = mvm.mkImage {
      inherit pkgs;
      arguments = cfg.build.image // {
        init = "${handover}";
        packages = [
          config.system.build.toplevel
          handover
        ];
        users = [ ];
        groups = [ ];
      };
    };
  };
}
