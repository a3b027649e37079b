# What an image is: its name, programs, kernel, root and what its VMs get by default.
{
  config,
  lib,
  mvm,
  ...
}:
let
  inherit (lib) mkOption types literalExpression;
  own = import ./types.nix { inherit lib; };
in
{
  options = {
    name = mkOption {
      type = types.strMatching "[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}";
      example = "web";
      description = "Name of the image; `mvmctl` shows it, and VMs are named after it.";
    };

    packages = mkOption {
      type = types.listOf types.package;
      default = [ ];
      example = literalExpression "[ pkgs.curl ]";
      description = ''
        Packages whose programs are on the guest's `PATH`, in `/usr/local/bin`. Where two have a program of the same name,
        the first in the list wins.
      '';
    };

    base = mkOption {
      type = types.nullOr types.package;
      default = mvm.base;
      defaultText = literalExpression "pkgs.pkgsStatic.busybox";
      description = ''
        Package whose programs are the guest's `/bin` and `/sbin`, `/bin/sh` among them. `null` for a guest that has no
        shell at all.
      '';
    };

    env = mkOption {
      type = own.env;
      default = { };
      example = {
        LANG = "C.UTF-8";
      };
      description = "Environment of services, health checks, `exec` and `console`.";
    };

    shell = mkOption {
      type = own.command;
      default = [ ];
      defaultText = literalExpression ''[ "/bin/sh" "-l" ]'';
      example = literalExpression ''[ "''${pkgs.bashInteractive}/bin/bash" "-l" ]'';
      description = "What `mvmctl console` runs; nothing stands for `/bin/sh -l`.";
    };

    init = mkOption {
      type = own.command;
      default = [ ];
      example = [ "/sbin/init" ];
      description = ''
        An init in place of mvm's: a program with its arguments, executed as PID 1 once the root is there. It starts `/sbin/mvm-guest agent --listen vsock`, and resets the guest when that has ended; what else it finds and has to
        do is in `docs/image-format.md`. `services` are its business then, and cannot be set.
      '';
    };

    kernel = {
      file = mkOption {
        type = types.either types.package own.absolutePath;
        default = mvm.kernel.file;
        defaultText = literalExpression ''"''${mvm.packages.''${system}.kernel}/vmlinux"'';
        description = ''
          The kernel's file. The default is mvm's own kernel, which has everything a guest needs built in. For a kernel of
          nixpkgs use `kernel = mvm.lib.stockKernel { inherit pkgs; kernel = pkgs.linux; }`.
        '';
      };
      format = mkOption {
        type = types.enum [
          "elf"
          "bzImage"
          "Image"
        ];
        default = mvm.kernel.format;
        defaultText = literalExpression ''"elf" on x86_64, "Image" on aarch64'';
        description = ''
          Its format: `elf` is an uncompressed vmlinux with a PVH entry, `bzImage` x86's self-extracting image (which
          Firecracker refuses), `Image` arm64's flat image.
        '';
      };
      modules = mkOption {
        type = types.nullOr (types.either types.package own.absolutePath);
        default = null;
        description = ''
          A folder of uncompressed kernel modules that stage 1 loads in the order of their names before it looks for the
          root. `null` where everything is built in.
        '';
      };
      initrd = mkOption {
        type = types.bool;
        default = config.kernel.modules != null;
        defaultText = literalExpression "config.kernel.modules != null";
        description = "Whether the image has an initrd. A kernel that finds its root alone boots faster without.";
      };
      params = mkOption {
        type = types.listOf (types.strMatching "[!-~]+");
        default = mvm.kernel.params;
        defaultText = literalExpression ''[ "acpi=off" ]'';
        description = ''
          Words for the kernel's command line beyond those of the backend. mvm's own kernel finds its drives without
          ACPI, which saves a tenth of the boot.
        '';
      };
    };

    rootfs = {
      size = mkOption {
        type = types.nullOr own.size;
        default = null;
        description = ''
          Size of the root file system; `null` for as large as its content. Nothing is ever written to it: each VM has a
          layer of its own above, so there is seldom a reason to set this.
        '';
      };
      readOnly = mkOption {
        type = types.bool;
        default = false;
        description = ''
          Whether nobody writes to the guest's root: its VMs have no layer of their own, and what they are to keep goes to
          `volumes`. `/run`, `/tmp` and `/var` are written to in memory.
        '';
      };
      verity = mkOption {
        type = types.bool;
        default = false;
        description = "Whether the guest checks each block of its root against a hash tree (dm-verity). Not supported yet: an image that asks for it is refused.";
      };
    };

    resources = {
      vcpus = mkOption {
        type = types.ints.between 1 256;
        default = 1;
        description = "Virtual CPUs of a VM where its user says nothing.";
      };
      memory = mkOption {
        type = own.size;
        default = 256;
        example = "1G";
        description = "Memory of a VM where its user says nothing: MiB, or a string such as `512M`. 64 MiB to 16 TiB.";
      };
    };
  };
}
