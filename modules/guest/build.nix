# From options to the arguments of nix/image.nix.
{
  config,
  lib,
  mvm,
  ...
}:
let
  inherit (lib) mkOption types mapAttrsToList;
  own = import ./types.nix { inherit lib; };
  without = lib.filterAttrs (_: value: value != null);

  users = [
    {
      name = "root";
      uid = 0;
      gid = 0;
      description = "root";
      home = "/root";
      shell = "/bin/sh";
      groups = [ ];
    }
  ]
  ++ mapAttrsToList (name: user: {
    inherit name;
    inherit (user)
      uid
      gid
      description
      shell
      groups
      ;
    home = if user.home == null then "/" else user.home;
  }) config.users
  ++ [
    {
      name = "nobody";
      uid = 65534;
      gid = 65534;
      description = "nobody";
      home = "/";
      shell = "/bin/false";
      groups = [ ];
    }
  ];
  declaredGroups = [
    {
      name = "root";
      gid = 0;
    }
    {
      name = "tty";
      gid = 5;
    }
    {
      name = "nogroup";
      gid = 65534;
    }
  ]
  ++ mapAttrsToList (name: group: {
    inherit name;
    inherit (group) gid;
  }) config.groups;
  # A user's own group, where no declared one has its number.
  ownGroups = lib.filter (group: !lib.any (known: known.gid == group.gid) declaredGroups) (
    mapAttrsToList (name: user: {
      inherit name;
      inherit (user) gid;
    }) config.users
  );
  groups = map (
    group:
    group
    // {
      members = map (user: user.name) (lib.filter (user: builtins.elem group.name user.groups) users);
    }
  ) (declaredGroups ++ ownGroups);

  find =
    what: list: name:
    lib.findFirst (entry: entry.name == name) (throw "no ${what} ${name}") list;
  owned = entry: rec {
    inherit (find "user" users entry.user) uid;
    gid =
      if entry.group == null then
        (find "user" users entry.user).gid
      else
        (find "group" groups entry.group).gid;
  };
  # As the guest reads it: in numbers, since a NixOS that starts for the first time has no /etc/passwd yet.
  owner =
    entry:
    let
      numbers = owned entry;
    in
    "${toString numbers.uid}:${toString numbers.gid}";
  mode = text: if builtins.stringLength text == 3 then "0${text}" else text;

  readiness =
    check:
    if check == null then
      null
    else
      {
        timeoutSeconds = check.timeout;
      }
      // (
        if check.notify then
          { kind = "notify"; }
        else if check.port != null then
          {
            kind = "port";
            inherit (check) port;
          }
        else
          {
            kind = "command";
            inherit (check) command;
          }
      );

  hosts = lib.concatStrings (
    [ "127.0.0.1 localhost\n::1 localhost\n" ]
    ++ mapAttrsToList (
      address: names: "${address} ${lib.concatStringsSep " " names}\n"
    ) config.network.hosts
  );
  address = port: if lib.hasInfix ":" port.address then "[${port.address}]" else port.address;
in
{
  options.build = {
    guest = mkOption {
      type = types.raw or types.unspecified;
      internal = true;
      readOnly = true;
      description = "`/etc/mvm/guest.json` of the image.";
    };
    image = mkOption {
      type = types.raw or types.unspecified;
      internal = true;
      readOnly = true;
      description = "Arguments of nix/image.nix.";
    };
  };

  config = {
    files = lib.mkMerge [
      (lib.mkIf (config.network.hosts != { }) { "/etc/hosts".text = lib.mkDefault hosts; })
      (lib.mkIf (config.network.nameservers != [ ]) {
        "/etc/resolv.conf".text = lib.mkDefault (
          lib.concatMapStrings (address: "nameserver ${address}\n") config.network.nameservers
        );
      })
    ];

    build.guest = without {
      schema = 1;
      policy = {
        inherit (config.access)
          console
          exec
          files
          forward
          ;
      };
      readOnlyRoot = if config.rootfs.readOnly then true else null;
      consoleIdleSeconds = config.access.consoleIdleTimeout;
      inherit (config)
        shell
        env
        hostName
        init
        ;
      services = lib.mapAttrs (
        _: service:
        without {
          command = service.command ++ service.args;
          inherit (service)
            preStart
            env
            user
            workingDirectory
            restart
            logFile
            ;
          readiness = readiness service.readiness;
        }
      ) config.services;
      secrets =
        if config.secrets == { } then
          null
        else
          lib.mapAttrs (
            _: secret:
            without {
              inherit (secret) mode path;
              owner = owner secret;
            }
          ) config.secrets;
      healthChecks = lib.mapAttrs (_: check: {
        inherit (check) command;
        intervalSeconds = check.interval;
        timeoutSeconds = check.timeout;
        startupGraceSeconds = check.startupGrace;
      }) config.healthChecks;
    };

    build.image = {
      inherit (config) name base packages;
      inherit (mvm) system agent;
      inherit (config.build) guest;
      kernel = {
        file = "${config.kernel.file}";
        inherit (config.kernel) format modules initrd;
        cmdline = lib.concatStringsSep " " config.kernel.params;
      };
      defaults = {
        inherit (config.resources) vcpus;
        memoryMiB = own.toMiB config.resources.memory;
        ports = mapAttrsToList (
          _: port: "${address port}:${toString port.host}:${toString port.guest}"
        ) config.ports;
      };
      users = map (user: removeAttrs user [ "groups" ]) users;
      inherit groups;
      directories =
        mapAttrsToList (
          path: directory:
          owned directory
          // {
            inherit path;
            mode = mode directory.mode;
          }
        ) config.directories
        ++
          map
            (volume: {
              path = volume.mountPoint;
              mode = "0755";
              uid = 0;
              gid = 0;
            })
            (
              lib.filter (volume: !config.directories ? ${volume.mountPoint}) (builtins.attrValues config.volumes)
            );
      volumes = mapAttrsToList (name: volume: {
        inherit name;
        inherit (volume) mountPoint mode;
        sizeMiB = own.toMiB volume.size;
        owner = owner volume;
      }) config.volumes;
      secrets = builtins.attrNames config.secrets;
      files = mapAttrsToList (
        path: file:
        owned file
        // {
          inherit path;
        }
        // (
          if file.source == null then
            {
              inherit (file) text;
              mode = if file.mode == null then "0644" else mode file.mode;
            }
          else
            {
              source = "${file.source}";
              mode = if file.mode == null then null else mode file.mode;
            }
        )
      ) config.files;
      inherit (config.rootfs) readOnly;
      size = if config.rootfs.size == null then null else own.toMiB config.rootfs.size * 1024 * 1024;
    };
  };
}
