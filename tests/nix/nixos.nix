# The NixOS modules, evaluated with NixOS's real ones: units, devices, users, and what is refused.
#
# eval: modules -> NixOS configuration; microvm: microvm.nix's NixOS module.
{
  lib,
  eval,
  microvm,
}:
let
  stub = import ./stub.nix { inherit lib; };
  inherit (stub) fakeMvm packagesFor;
  host = import ../../modules/nixos {
    mvm = fakeMvm;
    inherit packagesFor;
  };
  guest = import ../../modules/microvm/guest.nix {
    mvm = fakeMvm;
  };
  base = {
    system.stateVersion = "24.11";
    boot.loader.grub.enable = false;
    fileSystems."/".device = lib.mkDefault "/dev/vda";
    nixpkgs.hostPlatform = "x86_64-linux";
  };
  config =
    modules:
    (eval (
      [
        base
      ]
      ++ modules
    )).config;
  onHost =
    module:
    config [
      host
      module
    ];
  asGuest =
    module:
    config [
      guest
      module
    ];
  failures = config: map (a: a.message) (lib.filter (a: !a.assertion) config.assertions);
  # Ours among the assertions that fail; the stubs make others fail.
  refuses = words: config: {
    actual = lib.any (lib.hasInfix words) (failures config);
    expected = true;
  };
  equals = expected: actual: { inherit expected actual; };

  web = onHost {
    services.mvm.vms.web = {
      guest.services.web.command = "/bin/web";
      ports = [ "8080:80" ];
      env.COLOUR = "dark green";
      memory = "1G";
      secrets.key = "/run/keys/web 5% key";
    };
  };
  unit = web.systemd.services.mvm-web;
  fromFlake = onHost {
    services.mvm.vms.site = {
      flake = "github:me/site#vm";
      autostart = false;
      restart = false;
      hypervisor = "microvm-nix";
    };
  };
  tool = onHost {
    programs.mvm = {
      enable = true;
      users = [ "alice" ];
    };
    users.users.alice.isNormalUser = true;
  };
  nixosGuest = asGuest {
    networking.hostName = "machine";
    mvm.dev = true;
    mvm.ports.http.guest = 80;
  };
  viaMicrovm = config [
    {
      imports = [
        microvm
        guest
        ../../modules/microvm
      ];
    }
    {
      networking.hostName = "small";
      microvm.vcpu = 3;
      microvm.mem = 768;
      microvm.storeOnDisk = false;
      microvm.shares = [
        {
          source = "/nix/store";
          mountPoint = "/nix/.ro-store";
          tag = "ro-store";
          proto = "9p";
        }
      ];
    }
  ];
in
{
  tests = {
    "the tool loads what it needs" = equals true (
      lib.all (module: builtins.elem module tool.boot.kernelModules) [
        "kvm"
        "tun"
        "vhost_vsock"
      ]
    );
    "its users open the devices" = equals [
      "mvm"
      "kvm"
    ] tool.users.users.alice.extraGroups;
    "its users have subordinate numbers" = equals true tool.users.users.alice.autoSubUidGidRange;
    "vhost-vsock is the group's" = equals true (
      lib.hasInfix ''KERNEL=="vhost-vsock", GROUP="mvm"'' tool.services.udev.extraRules
    );
    "nothing is there unless asked for" = equals false ((onHost { }).users.groups ? mvm);

    "a VM is a unit that tells when it is ready" = equals "notify" unit.serviceConfig.Type;
    "a VM starts with the system" = equals [ "multi-user.target" ] unit.wantedBy;
    "a VM that is started by hand" = equals [ ] fromFlake.systemd.services.mvm-site.wantedBy;
    "a VM that stays down" = equals "no" fromFlake.systemd.services.mvm-site.serviceConfig.Restart;
    "a VM is no root's" = equals "mvm" unit.serviceConfig.User;
    "a VM has no capabilities" = equals "" unit.serviceConfig.CapabilityBoundingSet;
    "a VM sees the devices that it needs, and no others" =
      equals
        [
          "closed"
          [
            "/dev/kvm rw"
            "/dev/net/tun rw"
            "/dev/vhost-vsock rw"
          ]
        ]
        [
          unit.serviceConfig.DevicePolicy
          unit.serviceConfig.DeviceAllow
        ];
    "a flake may build for long" =
      equals "infinity" fromFlake.systemd.services.mvm-site.serviceConfig.TimeoutStartSec;
    "the VMs of the system have their own place" = equals "/run/mvm" unit.environment.MVM_RUNTIME_DIR;
    "systemd takes the unit" = equals true (
      lib.hasInfix "NotifyAccess=all" web.systemd.units."mvm-web.service".text
    );
    "a VM without an image" = refuses "give exactly one of" (onHost {
      services.mvm.vms.web = { };
    });
    "a VM with two images" = refuses "give exactly one of" (onHost {
      services.mvm.vms.web = {
        flake = "x";
        image = "/nix/store/x";
      };
    });
    "a VM with a name that is none" = refuses "use lower-case letters" (onHost {
      services.mvm.vms.Web_1.flake = "x";
    });
    "secrets are credentials" = equals [
      "key:/run/keys/web 5%% key"
    ] unit.serviceConfig.LoadCredential;
    "a secret with an odd name" = refuses "secrets: a name has letters" (onHost {
      services.mvm.vms.web = {
        flake = "x";
        secrets."a/b" = "/etc/key";
      };
    });
    "networks" = refuses "networks is not supported yet" (onHost {
      services.mvm.networks.blue = { };
    });
    "a sound VM has nothing to complain of" = equals [ ] (
      lib.filter (lib.hasInfix "services.mvm") (failures web)
    );

    "a NixOS guest has mvm's kernel and stage 1" =
      equals
        [
          false
          false
        ]
        [
          nixosGuest.boot.kernel.enable
          nixosGuest.boot.initrd.enable
        ];
    "its agent is a unit" = equals true (
      lib.hasInfix "--listen vsock" nixosGuest.systemd.services.mvm-agent.serviceConfig.ExecStart
    );
    "its image is called like it" = equals "machine" nixosGuest.mvm.name;
    "its policy is the image's" = equals true nixosGuest.mvm.build.guest.policy.exec;
    "its image has no initrd and no identity" =
      equals
        [
          false
          ""
        ]
        [
          (nixosGuest.system.build.mvmImage.manifest ? initrd)
          nixosGuest.system.build.mvmImage.content.passwd
        ];
    "its limits are its kernel's" = equals 32768 nixosGuest.boot.kernel.sysctl."kernel.pid_max";
    "it is called like its VM" = equals false nixosGuest.environment.etc.hostname.enable;
    "the end of its agent is its own" =
      equals "reboot" nixosGuest.systemd.services.mvm-agent.unitConfig.SuccessAction;
    "its host name is stage 1's to set" =
      equals
        [
          "db"
          [ ]
        ]
        (
          let
            named = asGuest { mvm.hostName = "db"; };
          in
          [
            named.mvm.build.guest.hostName
            (lib.filter (lib.hasPrefix "mvm") (failures named))
          ]
        );
    "its health is the agent's to check" =
      equals [ "/bin/true" ]
        (asGuest {
          mvm.healthChecks.a.command = "/bin/true";
        }).mvm.build.guest.healthChecks.a.command;
    "an init that is not NixOS's" = refuses "mvm.init is not for NixOS guests" (asGuest {
      mvm.init = "/bin/init";
    });
    "options that NixOS has itself" = refuses "mvm.services is not for NixOS guests" (asGuest {
      mvm.services.a.command = "/bin/a";
    });
    "assertions of the guest options reach NixOS" =
      refuses "mvm: rootfs.verity is not supported yet"
        (asGuest {
          mvm.rootfs.verity = true;
        });
    # Before there is an /etc/passwd: the owners are numbers.
    "volumes and secrets, which stage 1 gives them" =
      equals
        {
          volumes = [ "/srv/data 0:0" ];
          secrets.key = "0:0";
        }
        (
          let
            inherit
              (asGuest {
                mvm.volumes.data.mountPoint = "/srv/data";
                mvm.secrets.key = { };
              })
              mvm
              ;
          in
          {
            volumes = map (volume: "${volume.mountPoint} ${volume.owner}") mvm.build.image.volumes;
            secrets = lib.mapAttrs (_: secret: secret.owner) mvm.build.guest.secrets;
          }
        );

    "a configuration of microvm.nix stays as it is" = equals false viaMicrovm.mvm.enable;
    "with its resources" = equals {
      vcpus = 3;
      memoryMiB = 768;
      ports = [ ];
    } viaMicrovm.system.build.mvmImage.manifest.defaults;
  };
  # Only with all of nixpkgs.
  whole = {
    "its init is NixOS's" = equals [
      "${nixosGuest.system.build.toplevel}/init"
    ] nixosGuest.system.build.mvmImage.guest.init;
    "the image of a NixOS guest is an image" = equals true (
      lib.hasSuffix "-mvm-machine.drv" nixosGuest.system.build.mvmImage.drvPath
    );
    "a configuration of microvm.nix is an image too" = equals true (
      lib.hasSuffix "-mvm-small.drv" viaMicrovm.system.build.mvmImage.drvPath
    );
  };
  errors = { };
}
