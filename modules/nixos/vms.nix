# services.mvm: VMs that the system starts, each as a hardened unit that is active once its guest is ready.
{ mvm }:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.mvm;
  package = config.programs.mvm.package;

  # One place for all VMs of the system, apart from those of its users.
  environment = {
    HOME = "/var/lib/mvm";
    MVM_CACHE_DIR = "/var/cache/mvm";
    MVM_CONFIG_DIR = "/var/lib/mvm/config";
    MVM_SHARE_DIR = "/var/lib/mvm/share";
    MVM_STATE_DIR = "/var/lib/mvm/state";
    MVM_RUNTIME_DIR = "/run/mvm";
  };

  vm =
    { name, config, ... }:
    {
      options = {
        guest = mkOption {
          type = types.nullOr types.deferredModule;
          default = null;
          example = lib.literalExpression ''{ services.web.command = "''${pkgs.darkhttpd}/bin/darkhttpd /srv"; }'';
          description = "A guest module: the image is built with the system.";
        };
        flake = mkOption {
          type = types.nullOr types.str;
          default = null;
          example = "github:me/site#vm";
          description = "A flake ref: the image is built when the VM is started.";
        };
        image = mkOption {
          type = types.nullOr types.path;
          default = null;
          description = "An image that is built already: a folder with an image.json.";
        };
        autostart = mkOption {
          type = types.bool;
          default = true;
          description = "Whether the VM is started with the system.";
        };
        restart = mkOption {
          type = types.bool;
          default = true;
          description = "Whether the VM is started again after it has stopped by itself.";
        };
        ports = mkOption {
          type = types.listOf (types.strMatching "([^ ]*:)?[0-9]+:[0-9]+");
          default = [ ];
          example = [ "8080:80" ];
          description = ''
            Ports that are published on the host, `[ADDRESS:]HOST:GUEST`, besides those of the image. One for the same port
            of the guest replaces the image's.
          '';
        };
        env = mkOption {
          type = types.attrsOf types.str;
          default = { };
          description = "Variables of the guest's processes. Everybody on the host can read them.";
        };
        vcpus = mkOption {
          type = types.nullOr (types.ints.between 1 256);
          default = null;
          description = "Virtual CPUs; `null` for as many as the image says.";
        };
        memory = mkOption {
          type = types.nullOr (types.strMatching "[1-9][0-9]*[MGT]?");
          default = null;
          example = "1G";
          description = "Memory; `null` for as much as the image says.";
        };
        hypervisor = mkOption {
          type = types.nullOr (
            types.enum [
              "firecracker"
              "qemu"
              "docker"
              "microvm-nix"
            ]
          );
          default = null;
          description = "What runs the VM; `null` for the best that works here.";
        };
        bootTimeout = mkOption {
          type = types.nullOr (types.ints.between 1 86400);
          default = null;
          description = ''
            Seconds that the guest may take to become ready; `null` for 120. Nobody tells when one of `microvm-nix` is, so that it
            has to be `null` there.
          '';
        };
        networks = mkOption {
          type = types.listOf types.str;
          default = [ ];
          description = "Named networks that the VM is in. Not supported yet: refused where it is set.";
        };
        secrets = mkOption {
          # A path of Nix would be copied to the store, where everybody can read it.
          type = types.attrsOf (types.strMatching "/[^\n:]*");
          default = { };
          example = lib.literalExpression ''{ db-password = "/run/keys/db-password"; }'';
          description = "Files of the host that the VM is given as secrets, by name. They are credentials of its unit: only root need be able to read them.";
        };
      };
    };

  sources =
    machine:
    lib.count (value: value != null) [
      machine.guest
      machine.flake
      machine.image
    ];
  image =
    name: machine:
    if machine.guest != null then
      mvm.mkGuest {
        inherit pkgs;
        modules = [
          { name = lib.mkDefault name; }
          machine.guest
        ];
      }
    else
      machine.image;

  # Readiness is told by the script, whose last command is the unit's main process and ends with the VM.
  start =
    name: machine:
    let
      arguments = [
        "up"
        "--detach"
        "--rm"
        "--quiet"
        "--name"
        name
      ]
      ++ (
        if machine.flake != null then
          [
            "--flake"
            machine.flake
          ]
        else
          [
            "--image"
            "${image name machine}"
          ]
      )
      ++ lib.optionals (machine.vcpus != null) [
        "--cpus"
        (toString machine.vcpus)
      ]
      ++ lib.optionals (machine.memory != null) [
        "--memory"
        machine.memory
      ]
      ++ lib.optionals (machine.hypervisor != null) [
        "--hypervisor"
        machine.hypervisor
      ]
      ++ lib.optionals (machine.bootTimeout != null) [
        "--boot-timeout"
        (toString machine.bootTimeout)
      ]
      ++ lib.concatMap (port: [
        "--port"
        port
      ]) machine.ports
      ++ lib.concatLists (
        lib.mapAttrsToList (variable: value: [
          "--env"
          "${variable}=${value}"
        ]) machine.env
      );
    in
    pkgs.writeShellScript "mvm-${name}" ''
      set -eu
      mvmctl ${lib.escapeShellArgs arguments}${
        lib.concatMapStrings (
          secret:
          " --secret ${lib.escapeShellArg secret}=\"$CREDENTIALS_DIRECTORY\"/${lib.escapeShellArg secret}"
        ) (builtins.attrNames machine.secrets)
      }
      systemd-notify --ready --status="the guest is ready"
      exec mvmctl wait --until stopped ${lib.escapeShellArg name}
    '';

  unit =
    name: machine:
    lib.nameValuePair "mvm-${name}" {
      description = "microVM ${name}";
      wantedBy = lib.optional machine.autostart "multi-user.target";
      after = [
        "network.target"
        "nix-daemon.socket"
      ];
      inherit environment;
      path = [
        package
        config.systemd.package
      ]
      ++ lib.optionals (machine.flake != null) [
        config.nix.package
        pkgs.git
      ];
      # A VM of another image is another VM.
      restartIfChanged = true;
      serviceConfig = {
        Type = "notify";
        NotifyAccess = "all";
        # What a power cut left behind.
        ExecStartPre = "-${lib.getExe' package "mvmctl"} rm --force --quiet ${name}";
        ExecStart = "${start name machine}";
        ExecStop = "-${lib.getExe' package "mvmctl"} down --quiet ${name}";
        # A build of a flake may take long; the guest has its own deadline.
        TimeoutStartSec =
          if machine.flake != null then
            "infinity"
          else
            30 + (if machine.bootTimeout == null then 120 else machine.bootTimeout);
        TimeoutStopSec = 60;
        Restart = if machine.restart then "always" else "no";
        RestartSec = 1;
        KillMode = "mixed";

        # systemd would take a percent sign for one of its own words.
        LoadCredential = lib.mapAttrsToList (
          secret: file: "${secret}:${builtins.replaceStrings [ "%" ] [ "%%" ] file}"
        ) machine.secrets;

        User = "mvm";
        Group = "mvm";
        SupplementaryGroups = [ "kvm" ];
        StateDirectory = "mvm";
        StateDirectoryMode = "0700";
        CacheDirectory = "mvm";
        CacheDirectoryMode = "0700";
        ReadWritePaths = [ "/run/mvm" ];
        UMask = "0077";

        CapabilityBoundingSet = "";
        DevicePolicy = "closed";
        DeviceAllow = [
          "/dev/kvm rw"
          "/dev/net/tun rw"
          "/dev/vhost-vsock rw"
        ];
        LockPersonality = true;
        # Not MemoryDenyWriteExecute: without KVM QEMU translates the guest's code.
        NoNewPrivileges = true;
        PrivateTmp = true;
        ProtectClock = true;
        ProtectControlGroups = true;
        ProtectHome = true;
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectProc = "invisible";
        ProtectSystem = "strict";
        RestrictAddressFamilies = [
          "AF_UNIX"
          "AF_INET"
          "AF_INET6"
          "AF_NETLINK"
          "AF_VSOCK"
        ];
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        SystemCallArchitectures = "native";
        SystemCallFilter = [
          "@system-service"
          "~@privileged"
        ];
        # What is not there is refused, as on an older kernel; nothing is killed for asking.
        SystemCallErrorNumber = "EPERM";
      };
    };

  # Those VMs belong to a user of their own; root looks after them with this.
  admin = pkgs.writeShellScriptBin "mvmctl-system" ''
    exec ${pkgs.util-linux}/bin/runuser -u mvm -g mvm -G kvm -- ${pkgs.coreutils}/bin/env ${
      lib.concatStringsSep " " (lib.mapAttrsToList (name: value: "${name}=${value}") environment)
    } ${lib.getExe' package "mvmctl"} "$@"
  '';
in
{
  options.services.mvm = {
    vms = mkOption {
      type = types.attrsOf (types.submodule vm);
      default = { };
      description = ''
        VMs of the system, by name. Each is made anew when its unit starts; `mvmctl-system` is `mvmctl` for them.
      '';
    };
    networks = mkOption {
      type = types.attrsOf (types.submodule { });
      default = { };
      description = "Named networks. Not supported yet: refused where it is set.";
    };
  };

  config = lib.mkMerge [
    {
      assertions = [
        {
          assertion = cfg.networks == { };
          message = "services.mvm.networks is not supported yet: mvmctl has no named networks";
        }
      ]
      ++ lib.concatLists (
        lib.mapAttrsToList (name: machine: [
          {
            assertion = sources machine == 1;
            message = "services.mvm.vms.${name}: give exactly one of `guest`, `flake` and `image`";
          }
          {
            assertion = builtins.match "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?" name != null;
            message = "services.mvm.vms.${name}: use lower-case letters, digits and inner hyphens, at most 63";
          }
          {
            assertion = machine.networks == [ ];
            message = "services.mvm.vms.${name}.networks is not supported yet: mvmctl has no named networks";
          }
          {
            assertion = lib.all (secret: builtins.match "[A-Za-z0-9][A-Za-z0-9_.-]{0,63}" secret != null) (
              builtins.attrNames machine.secrets
            );
            message = "services.mvm.vms.${name}.secrets: a name has letters, digits, `_`, `.` and `-`, at most 64";
          }
        ]) cfg.vms
      );
    }
    (lib.mkIf (cfg.vms != { }) {
      programs.mvm.enable = true;
      environment.systemPackages = [ admin ];
      users.users.mvm = {
        isSystemUser = true;
        group = "mvm";
        home = "/var/lib/mvm";
      };
      # Outlives the units, which share it.
      systemd.tmpfiles.rules = [ "d /run/mvm 0700 mvm mvm -" ];
      systemd.services = lib.mapAttrs' unit cfg.vms;
    })
  ];
}
