# What types cannot say: options that contradict each other, and options that this mvm does not know how to honour.
{
  config,
  lib,
  mvm,
  ...
}:
let
  inherit (lib)
    mkOption
    types
    concatMap
    concatStringsSep
    mapAttrsToList
    optional
    ;
  own = import ./types.nix { inherit lib; };
  quote = text: "`${text}`";
  list = concatStringsSep ", ";
  refuse = condition: message: {
    assertion = !condition;
    inherit message;
  };

  userNames = [
    "root"
    "nobody"
  ]
  ++ builtins.attrNames config.users;
  groupNames = [
    "root"
    "tty"
    "nogroup"
  ]
  ++ builtins.attrNames config.users
  ++ builtins.attrNames config.groups;
  isNumber = text: builtins.match "[0-9]+" text != null;

  # Names that occur with the same value more than once, as in [ "a and b (80)" ].
  clashes =
    valueOf: attrs:
    let
      groups = lib.groupBy (name: toString (valueOf attrs.${name})) (builtins.attrNames attrs);
    in
    mapAttrsToList (value: names: "${concatStringsSep " and " (map quote names)} (${value})") (
      lib.filterAttrs (_: names: builtins.length names > 1) groups
    );
  unique =
    what: valueOf: attrs:
    refuse (clashes valueOf attrs != [ ]) "${what}: ${list (clashes valueOf attrs)}";

  ownerAssertion =
    option: path: entry:
    refuse (
      !builtins.elem entry.user userNames
    ) "${option}.${quote path}.user is ${quote entry.user}, which is not declared in `users`";
  groupAssertion =
    option: path: entry:
    refuse (
      entry.group != null && !builtins.elem entry.group groupNames
    ) "${option}.${quote path}.group is ${quote entry.group}, which is not declared in `groups`";

  # The guest mounts something over these, or mvm puts its own there.
  taken = [
    "/dev"
    "/nix/store"
    "/proc"
    "/run"
    "/sys"
    "/tmp"
    "/etc/mvm/guest.json"
    "/sbin/mvm-guest"
  ];
  isBelow = path: folder: path == folder || lib.hasPrefix "${folder}/" path;
  isCanonical =
    path:
    lib.hasPrefix "/" path
    && path != "/"
    && builtins.match ".*(//|/\\.\\.?/).*|.*(/|/\\.\\.?)|.*\n.*" path == null;
  pathAssertions =
    option: path:
    [
      (refuse (
        !isCanonical path
      ) "${option}.${quote path}: write an absolute path without `.`, `..`, doubled or trailing slashes")
    ]
    ++ map (
      folder: refuse (isBelow path folder) "${option}.${quote path}: ${folder} is not the image's to fill"
    ) taken;

  commandAssertions = option: command: [
    (refuse (command == [ ] || builtins.head command == "") "${option} is empty")
    (refuse
      (builtins.length command == 1 && builtins.match "[^ ]+[ \t\n].*" (builtins.head command) != null)
      "${option} is one text with blanks, which is taken for the name of one program: write a list, or [ \"/bin/sh\" \"-c\" \"…\" ]"
    )
  ];
  envAssertions =
    option: env:
    map (
      name:
      refuse (
        builtins.match "[A-Za-z_][A-Za-z0-9_]*" name == null
      ) "${option}.${quote name} cannot be the name of an environment variable"
    ) (builtins.attrNames env);
  nameAssertion =
    option: name:
    refuse (
      builtins.match "[A-Za-z0-9][A-Za-z0-9_.-]{0,63}" name == null
    ) "${option}.${quote name}: use letters, digits, `_`, `.` and `-`, at most 64";

  serviceUser =
    name: user:
    let
      parts = lib.splitString ":" user;
      group = builtins.elemAt parts 1;
    in
    [
      (refuse (
        !isNumber (builtins.head parts) && !builtins.elem (builtins.head parts) userNames
      ) "services.${name}.user is ${quote user}, which is not declared in `users`")
    ]
    ++ optional (builtins.length parts > 1) (
      refuse (
        !isNumber group && !builtins.elem group groupNames
      ) "services.${name}.user names the group ${quote group}, which is not declared in `groups`"
    );

  serviceAssertions =
    name: service:
    [ (nameAssertion "services" name) ]
    ++ commandAssertions "services.${name}.command" service.command
    ++ lib.optionals (service.preStart != null) (
      commandAssertions "services.${name}.preStart" service.preStart
    )
    ++ envAssertions "services.${name}.env" service.env
    ++ lib.optionals (service.user != null) (serviceUser name service.user)
    ++ lib.optionals (service.readiness != null) (
      [
        (refuse (
          lib.count (given: given) [
            (service.readiness.command != null)
            (service.readiness.port != null)
            service.readiness.notify
          ] != 1
        ) "services.${name}.readiness: give exactly one of `command`, `port` and `notify`")
      ]
      ++ lib.optionals (service.readiness.command != null) (
        commandAssertions "services.${name}.readiness.command" service.readiness.command
      )
    );

  portAssertions =
    let
      ports = builtins.attrValues config.ports;
      published = lib.filter (port: port.host != 0) ports;
      onOnePort = lib.filterAttrs (
        _: ports: builtins.length (lib.unique (map (port: port.service) ports)) > 1
      ) (lib.groupBy (port: toString port.guest) (lib.filter (port: port.service != null) ports));
      isAny = address: address == "0.0.0.0" || address == "::";
      meet = a: b: a.host == b.host && (a.address == b.address || isAny a.address || isAny b.address);
      clash = lib.filter (port: builtins.length (lib.filter (meet port) published) > 1) published;
    in
    mapAttrsToList (
      port: ports:
      refuse true "two services on port ${port}: ${
        list (lib.unique (map (port: quote port.service) ports))
      }"
    ) onOnePort
    ++ [
      (refuse (clash != [ ])
        "ports: port ${
          toString (builtins.head (clash ++ [ { host = 0; } ])).host
        } of the host is published twice"
      )
      (refuse (config.ports != { } && !config.access.forward)
        "ports are published through the guest channel, which is closed: set `access.forward = true`, or declare no ports"
      )
    ]
    ++ mapAttrsToList (
      name: port:
      refuse (
        port.service != null && !config.services ? ${port.service}
      ) "ports.${name}.service is ${quote (toString port.service)}, which is not in `services`"
    ) config.ports;

  opened = lib.filter (name: config.access.${name}) [
    "console"
    "exec"
    "files"
  ];
  memory = own.toMiB config.resources.memory;
  cmdline = concatStringsSep " " config.kernel.params;
  formats =
    if lib.hasPrefix "aarch64" mvm.system then
      [ "Image" ]
    else
      [
        "elf"
        "bzImage"
      ];

  unsupported =
    option: isSet: instead:
    refuse isSet "${option} is not supported yet${lib.optionalString (instead != "") ": ${instead}"}";
in
{
  options = {
    assertions = mkOption {
      type = types.listOf types.unspecified;
      internal = true;
      default = [ ];
      description = "What must hold: `assertion` and the `message` where it does not.";
    };
    warnings = mkOption {
      type = types.listOf types.str;
      internal = true;
      default = [ ];
      description = "What the author of the image should know.";
    };
  };

  config.assertions = [
    (refuse (config.sealed && opened != [ ])
      "the image is sealed, but ${list (map (name: "access.${name}") opened)} is open"
    )
    (refuse (
      memory < 64 || memory > 16 * 1024 * 1024
    ) "resources.memory is ${toString memory} MiB; it must be 64 MiB to 16 TiB")
    (refuse (
      builtins.stringLength cmdline > 1024
    ) "kernel.params has ${toString (builtins.stringLength cmdline)} characters; 1024 are allowed")
    (refuse (!builtins.elem config.kernel.format formats)
      "kernel.format is ${quote config.kernel.format}; a guest of ${mvm.system} boots ${list (map quote formats)}"
    )
    (refuse (
      config.kernel.modules != null && !config.kernel.initrd
    ) "kernel.modules are loaded by stage 1, which needs `kernel.initrd = true`")
    (refuse (
      config.base == null && config.access.console && config.shell == [ ]
    ) "access.console is open, but without `base` there is no /bin/sh: set `shell`")
    (refuse (
      config.init != [ ] && config.services != { }
    ) "services are started by mvm's init, and the guest has one of its own: let `init` start them")
    (unique "users have the same uid" (user: user.uid) config.users)
    (unique "groups have the same gid" (group: group.gid) config.groups)
    (unsupported "network.enable" config.network.enable "published ports work without a network card")
    (refuse (builtins.length (builtins.attrNames config.volumes) > 16) "a VM may have 16 volumes")
    (unique "volumes are mounted at the same place" (volume: volume.mountPoint) config.volumes)
    (refuse (builtins.length (builtins.attrNames config.secrets) > 64) "a VM may have 64 secrets")
    (unsupported "rootfs.verity" config.rootfs.verity "")
  ]
  ++ concatMap (
    name:
    let
      volume = config.volumes.${name};
      size = own.toMiB volume.size;
    in
    [
      (refuse (
        builtins.match "[a-z0-9_][a-z0-9_-]{0,31}" name == null
      ) "volumes.${quote name}: use lower-case letters, digits, `_` and inner hyphens, at most 32")
      (refuse (
        size < 16 || size > 16 * 1024 * 1024
      ) "volumes.${name}.size is ${toString size} MiB; it must be 16 MiB to 16 TiB")
      (ownerAssertion "volumes" name volume)
      (groupAssertion "volumes" name volume)
    ]
    ++ pathAssertions "volumes.${name}.mountPoint" volume.mountPoint
    ++ map (
      folder:
      refuse (
        volume.mountPoint != "/" && folder != volume.mountPoint && isBelow folder volume.mountPoint
      ) "volumes.${name}.mountPoint is ${quote volume.mountPoint}, which would hide ${folder}"
    ) taken
  ) (builtins.attrNames config.volumes)
  ++ concatMap (
    name:
    let
      secret = config.secrets.${name};
    in
    [
      (nameAssertion "secrets" name)
      (ownerAssertion "secrets" name secret)
      (groupAssertion "secrets" name secret)
    ]
    ++ lib.optionals (secret.path != null) (
      [
        (refuse (
          config.files ? ${secret.path} || config.directories ? ${secret.path}
        ) "secrets.${name}.path is ${quote secret.path}, which is in `files` or `directories` too")
        (refuse (config.rootfs.readOnly && !isBelow secret.path "/etc" && !isBelow secret.path "/var")
          "secrets.${name}.path is ${quote secret.path}, where a read-only root cannot have a link: only below /etc and /var"
        )
      ]
      ++ pathAssertions "secrets.${name}.path" secret.path
    )
  ) (builtins.attrNames config.secrets)
  ++ lib.optionals (config.shell != [ ]) (commandAssertions "shell" config.shell)
  ++ lib.optionals (config.init != [ ]) (
    commandAssertions "init" config.init
    ++ [
      (refuse (
        !lib.hasPrefix "/" (builtins.head config.init)
      ) "init is ${quote (builtins.head config.init)}, which is no absolute path")
    ]
  )
  ++ portAssertions
  ++ envAssertions "env" config.env
  ++ lib.concatLists (mapAttrsToList serviceAssertions config.services)
  ++ concatMap (
    name:
    [ (nameAssertion "healthChecks" name) ]
    ++ commandAssertions "healthChecks.${name}.command" config.healthChecks.${name}.command
  ) (builtins.attrNames config.healthChecks)
  ++ concatMap (
    name:
    let
      user = config.users.${name};
    in
    [
      (refuse (!own.name.check name) "users.${quote name}: use ${own.name.description}")
      (refuse (builtins.elem name [
        "root"
        "nobody"
      ]) "users.${name} is there in any case and cannot be changed")
    ]
    ++ map (
      group:
      refuse (
        !builtins.elem group groupNames
      ) "users.${name}.groups has ${quote group}, which is not declared in `groups`"
    ) user.groups
  ) (builtins.attrNames config.users)
  ++ concatMap (name: [
    (refuse (!own.name.check name) "groups.${quote name}: use ${own.name.description}")
    (refuse (builtins.elem name [
      "root"
      "tty"
      "nogroup"
    ]) "groups.${name} is there in any case and cannot be changed")
  ]) (builtins.attrNames config.groups)
  ++ concatMap (
    path:
    let
      file = config.files.${path};
    in
    pathAssertions "files" path
    ++ [
      (ownerAssertion "files" path file)
      (groupAssertion "files" path file)
      (refuse (
        (file.text == null) == (file.source == null)
      ) "files.${quote path}: give either `text` or `source`")
      (refuse (file.source != null && !lib.hasPrefix "${builtins.storeDir}/" "${file.source}")
        "files.${quote path}.source is ${quote (toString file.source)}, which no build can see: use a path of the flake"
      )
      (refuse (
        file.source != null && file.mode == null && file.user != "root"
      ) "files.${quote path} is a link into the store, which belongs to root: set `mode` to have a copy")
      (refuse (config.directories ? ${path}) "${quote path} is both in `files` and in `directories`")
    ]
  ) (builtins.attrNames config.files)
  ++ concatMap (
    path:
    pathAssertions "directories" path
    ++ [
      (ownerAssertion "directories" path config.directories.${path})
      (groupAssertion "directories" path config.directories.${path})
    ]
  ) (builtins.attrNames config.directories);
}
