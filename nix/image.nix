# The image of a guest (docs/image-format.md), from plain data. It knows no nixpkgs: `tools` says what to build with, and
# modules/guest turns options into the other arguments.
{ tools }:
{
  # The name in image.json, and of the store paths behind `prefix`.
  name,
  prefix ? "mvm-",
  # The guest's system; the builder's is tools.system.
  system,
  # { program; protocol; version; }
  agent,
  # { file; format; cmdline; modules: a folder of .ko files or null; initrd: whether stage 1 needs one }
  kernel,
  # /etc/mvm/guest.json
  guest,
  # `defaults` of image.json
  defaults,
  # A package whose programs are the guest's /bin; null for a guest without a shell.
  base ? null,
  packages ? [ ],
  # [ { name; uid; gid; description; home; shell; } ], [ { name; gid; members; } ]; without users the image leaves
  # everything in /etc to the init that `guest.init` names.
  users,
  groups,
  # [ { path; mode; uid; gid; } ], and files with `text` or `source`; a source whose mode is null is linked.
  directories ? [ ],
  files ? [ ],
  # Bytes of the root, or null for as many as are needed.
  size ? null,
  # Whether nobody writes to the root.
  readOnly ? false,
  # `volumes` of image.json
  volumes ? [ ],
  # `secrets` of image.json
  secrets ? [ ],
}:
let
  run = import ./image/run.nix { inherit tools; };
  content = import ./image/content.nix { inherit run; } {
    name = "${prefix}${name}-content";
    inherit
      guest
      base
      packages
      users
      groups
      directories
      files
      ;
  };
  rootfs = import ./image/rootfs.nix { inherit run; } {
    name = "${prefix}${name}-rootfs";
    inherit content agent size;
  };
  initrd = import ./image/initrd.nix { inherit run; } {
    name = "${prefix}initrd";
    inherit agent;
    inherit (kernel) modules;
  };
  manifest = {
    schema = 1;
    inherit name system;
    kernel = {
      path = "kernel";
      inherit (kernel) format;
    };
    rootfs = {
      path = "rootfs.ext4";
      fs = "ext4";
      # 0 is replaced by the size that the root has got.
      sizeBytes = if size == null then 0 else size;
    }
    // (if readOnly then { inherit readOnly; } else { });
    inherit (kernel) cmdline;
    agent = {
      inherit (agent) protocol version;
      features = [
        "volumes"
        "secrets"
      ]
      # An init of the guest's own knows nothing of containers.
      ++ (if (guest.init or [ ]) == [ ] then [ "container" ] else [ ]);
    };
    inherit (guest) policy;
    inherit defaults;
    services = builtins.attrNames guest.services;
    health = builtins.attrNames guest.healthChecks;
    # What an mvmctl that does not know of it would leave out.
    requires =
      (if volumes == [ ] then [ ] else [ "volumes" ]) ++ (if secrets == [ ] then [ ] else [ "secrets" ]);
  }
  // (if secrets == [ ] then { } else { inherit secrets; })
  // (if volumes == [ ] then { } else { inherit volumes; })
  // (if kernel.initrd then { initrd.path = "initrd.cpio"; } else { });
  image = run {
    name = "${prefix}${name}";
    script = ./image/folder.sh;
    variables = {
      kernel = kernel.file;
      initrd = if kernel.initrd then "${initrd}" else "";
      inherit rootfs;
    };
    attributes = {
      manifest = builtins.toJSON manifest;
      passAsFile = [ "manifest" ];
    };
  };
in
image
// {
  # By this `mvmctl flake check` knows an image.
  isMvmImage = true;
  inherit
    content
    rootfs
    initrd
    manifest
    guest
    ;
}
