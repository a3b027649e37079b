# A NixOS as an mvm guest: systemd is its init, mvm-guest a unit, and config.system.build.mvmImage the image.
#
# stage 1 (mvm-guest: drives, overlay, names) ── NixOS's stage 2 ── systemd ── mvm-agent
{ mvm }:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.mvm;
  parts = mvm.guestParts pkgs;

  reset = [
    ""
    "${config.systemd.package}/bin/systemctl --force reboot"
  ];

  # Options of modules/guest that NixOS has options of its own for.
  elsewhere = {
    init = "boot";
    services = "systemd.services";
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
        assertion = builtins.elem cfg.${option} [
          null
          [ ]
          { }
        ];
        message = "mvm.${option} is not for NixOS guests: use ${instead}";
      }) elsewhere
      ++ [
        {
          assertion = !cfg.rootfs.readOnly;
          message = "mvm.rootfs.readOnly is not for NixOS guests: their activation writes to the root";
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
      # The most that mvm's kernel allows; NixOS's default would make systemd-sysctl fail.
      kernel.sysctl."kernel.pid_max" = lib.mkOverride 900 32768;
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

    # The host name is the VM's, or mvm.hostName: stage 1 writes the file.
    environment.etc.hostname.enable = lib.mkDefault false;

    # Not every VMM has a power switch; a reset is what each takes as the end.
    systemd.services.systemd-poweroff.serviceConfig.ExecStart = reset;
    systemd.services.systemd-halt.serviceConfig.ExecStart = reset;

    systemd.services.mvm-agent = {
      description = "mvm guest agent";
      wantedBy = [ "multi-user.target" ];
      after = [ "local-fs.target" ];
      # The host asked the guest to stop.
      unitConfig.SuccessAction = "reboot";
      # Its end is the guest's.
      restartIfChanged = false;
      serviceConfig = {
        Type = "exec";
        ExecStart = "/sbin/mvm-guest agent --listen vsock";
        Restart = "on-failure";
        # What `mvmctl exec` started goes with the guest, not with a new agent.
        KillMode = "process";
      };
    };

    system.build.mvmImage = mvm.mkImage {
      inherit pkgs;
      arguments = cfg.build.image // {
        # Not by the option: the assertions, which the system itself asks, would ask for the system.
        guest = cfg.build.guest // {
          init = [ "${config.system.build.toplevel}/init" ];
        };
        users = [ ];
        groups = [ ];
      };
    };
  };
}
