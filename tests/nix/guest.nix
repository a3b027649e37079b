# The options of a guest: what comes out of them, and what is refused. Every test is `{ expected; actual; }`; `errors`
# holds modules that the module system itself has to refuse, with words of its message.
{ lib }:
let
  stub = import ./stub.nix { inherit lib; };
  evaluate = modules: (stub.evaluate modules).config;
  named = module: [
    { name = "test"; }
    module
  ];
  failures =
    module: map (a: a.message) (lib.filter (a: !a.assertion) (evaluate (named module)).assertions);
  # That the options of a module are refused, once, with these words.
  refuses = words: module: {
    actual = map (message: if lib.hasInfix words message then words else message) (failures module);
    expected = [ words ];
  };
  accepts = module: {
    actual = failures module;
    expected = [ ];
  };
  guest = module: (evaluate (named module)).build.guest;
  image = module: (evaluate (named module)).build.image;
  equals = expected: actual: { inherit expected actual; };
  web = {
    services.web.command = "/bin/web";
  };
in
{
  tests = {
    "an image is closed unless opened" = equals {
      console = false;
      exec = false;
      files = false;
      forward = false;
    } (guest { }).policy;
    "dev opens everything" = equals {
      console = true;
      exec = true;
      files = true;
      forward = true;
    } (guest { dev = true; }).policy;
    "dev can be narrowed" =
      equals false
        (guest {
          dev = true;
          access.files = false;
        }).policy.files;

    "a service is what guest.json wants" =
      equals
        {
          command = [
            "/bin/web"
            "-p"
            "80"
          ];
          preStart = [ "/bin/prepare" ];
          env.A = "1";
          user = "nobody";
          workingDirectory = "/srv";
          restart = "on-failure";
          logFile = "/var/log/web";
        }
        (guest {
          services.web = {
            command = "/bin/web";
            args = [
              "-p"
              "80"
            ];
            preStart = "/bin/prepare";
            env.A = "1";
            user = "nobody";
            workingDirectory = "/srv";
            restart = "on-failure";
            logFile = "/var/log/web";
          };
        }).services.web;
    "what is not said is left to the guest" = equals {
      command = [ "/bin/web" ];
      env = { };
      restart = "always";
    } (guest web).services.web;
    "the ways to be ready" =
      equals
        [
          {
            kind = "command";
            command = [ "/bin/check" ];
            timeoutSeconds = 60;
          }
          {
            kind = "port";
            port = 80;
            timeoutSeconds = 5;
          }
          {
            kind = "notify";
            timeoutSeconds = 60;
          }
        ]
        (
          map
            (
              readiness:
              (guest {
                services.web = {
                  command = "/bin/web";
                  inherit readiness;
                };
              }).services.web.readiness
            )
            [
              "/bin/check"
              {
                port = 80;
                timeout = 5;
              }
              { notify = true; }
            ]
        );
    "a host name of its own" = equals "db" (guest { hostName = "db"; }).hostName;
    "a volume is what image.json wants" =
      let
        result = image {
          users.db.uid = 70;
          volumes.data = {
            mountPoint = "/var/lib/db";
            size = "1G";
            user = "db";
            group = "tty";
            mode = "0700";
          };
        };
      in
      equals
        {
          volumes = [
            {
              name = "data";
              mountPoint = "/var/lib/db";
              sizeMiB = 1024;
              owner = "70:5";
              mode = "0700";
            }
          ];
          directories = [ "/var/lib/db" ];
        }
        {
          inherit (result) volumes;
          directories = map (d: d.path) result.directories;
        };
    "an image with volumes asks its host for them" =
      equals [ "volumes" ]
        (stub.image (named {
          volumes.data.mountPoint = "/data";
        })).manifest.requires;
    "a secret is what both sides want" =
      let
        modules = named {
          users.db.uid = 70;
          secrets.key = {
            user = "db";
            group = "tty";
            path = "/etc/key";
          };
          secrets.other = { };
        };
        manifest = (stub.image modules).manifest;
      in
      equals
        {
          secrets = [
            "key"
            "other"
          ];
          requires = [ "secrets" ];
          files = {
            key = {
              owner = "70:5";
              mode = "0400";
              path = "/etc/key";
            };
            other = {
              owner = "0:0";
              mode = "0400";
            };
          };
        }
        {
          inherit (manifest) secrets requires;
          files = (evaluate modules).build.guest.secrets;
        };
    "a read-only root is told to both sides" =
      let
        modules = named { rootfs.readOnly = true; };
      in
      equals
        [
          true
          true
        ]
        [
          (evaluate modules).build.guest.readOnlyRoot
          (stub.image modules).manifest.rootfs.readOnly
        ];
    "no host name of its own" = equals false ((guest { }) ? hostName);
    "arguments of several modules add up" =
      equals
        [
          "/bin/web"
          "-a"
          "-b"
        ]
        (guest {
          imports = [ { services.web.args = [ "-a" ]; } ];
          services.web = {
            command = "/bin/web";
            args = lib.mkAfter [ "-b" ];
          };
        }).services.web.command;
    "a health check is what guest.json wants" =
      equals
        {
          command = [
            "/bin/check"
            "now"
          ];
          intervalSeconds = 1;
          timeoutSeconds = 2;
          startupGraceSeconds = 3;
        }
        (guest {
          healthChecks.a = {
            command = [
              "/bin/check"
              "now"
            ];
            interval = 1;
            timeout = 2;
            startupGrace = 3;
          };
        }).healthChecks.a;

    "sizes are numbers of MiB" =
      equals
        [
          256
          512
          512
          4096
        ]
        (
          map (memory: (image { resources = { inherit memory; }; }).defaults.memoryMiB) [
            256
            512
            "512M"
            "4G"
          ]
        );
    "the root's size is in bytes" = equals 67108864 (image { rootfs.size = "64M"; }).size;
    "ports are as mvmctl writes them" =
      equals
        [
          "127.0.0.1:0:81"
          "[::1]:8080:80"
        ]
        (image {
          access.forward = true;
          ports.b = {
            guest = 80;
            host = 8080;
            address = "::1";
          };
          ports.a.guest = 81;
        }).defaults.ports;
    "a user has a group and a home" =
      let
        result = image {
          users.app = {
            uid = 1000;
            home = "/home/app";
            groups = [ "tty" ];
          };
        };
      in
      equals
        {
          group = {
            name = "app";
            gid = 1000;
            members = [ ];
          };
          tty = {
            name = "tty";
            gid = 5;
            members = [ "app" ];
          };
          directories = [
            {
              path = "/home/app";
              mode = "0750";
              uid = 1000;
              gid = 1000;
            }
          ];
        }
        {
          group = lib.findFirst (g: g.name == "app") null result.groups;
          tty = lib.findFirst (g: g.name == "tty") null result.groups;
          inherit (result) directories;
        };
    "a file has an owner" =
      equals
        {
          path = "/etc/app";
          mode = "0640";
          uid = 1000;
          gid = 5;
          text = "x";
        }
        (
          lib.findFirst (f: f.path == "/etc/app") null
            (image {
              users.app.uid = 1000;
              files."/etc/app" = {
                text = "x";
                mode = "640";
                user = "app";
                group = "tty";
              };
            }).files
        );
    "hosts of the image keep localhost" =
      equals "127.0.0.1 localhost\n::1 localhost\n10.0.0.2 db\n"
        (lib.findFirst (f: f.path == "/etc/hosts") null
          (image { network.hosts."10.0.0.2" = [ "db" ]; }).files
        ).text;
    "a stock kernel needs an initrd" =
      equals true
        (image {
          kernel.modules = stub.pkgs.hello;
        }).kernel.initrd;
    "image.json is complete" =
      let
        inherit (stub.image (named web)) manifest;
      in
      equals {
        schema = 1;
        name = "test";
        system = "x86_64-linux";
        kernel = {
          path = "kernel";
          format = "elf";
        };
        rootfs = {
          path = "rootfs.ext4";
          fs = "ext4";
          sizeBytes = 0;
        };
        cmdline = "acpi=off";
        agent = {
          protocol = 1;
          version = "0.0.0";
          features = [
            "volumes"
            "secrets"
            "container"
          ];
        };
        policy = {
          console = false;
          exec = false;
          files = false;
          forward = false;
        };
        defaults = {
          vcpus = 1;
          memoryMiB = 256;
          ports = [ ];
        };
        services = [ "web" ];
        health = [ ];
        requires = [ ];
      } manifest;
    "an image that does not fit together is not built" =
      equals false
        (builtins.tryEval
          (stub.image (named {
            network.enable = true;
          })).drvPath
        ).success;

    "an init of its own is the manifest's" =
      equals [ "/sbin/init" "--quiet" ]
        (guest {
          init = [
            "/sbin/init"
            "--quiet"
          ];
        }).init;
    "mvm's init has no name" = equals [ ] (guest { }).init;
    "services that nobody would start" = refuses "let `init` start them" {
      init = "/sbin/init";
      services.a.command = "/bin/a";
    };
    "an init that nobody would find" = refuses "`init`, which is no absolute path" { init = "init"; };

    "an empty image is fine" = accepts { };
    "two ports of one service are fine" = accepts {
      imports = [ web ];
      access.forward = true;
      ports.a = {
        guest = 80;
        service = "web";
      };
      ports.b = {
        guest = 81;
        service = "web";
      };
    };
    "numbers need not be declared as users" = accepts {
      services.web = {
        command = "/bin/web";
        user = "1000:5";
      };
    };

    "two services on a port" = refuses "two services on port 80: `a`, `b`" {
      services.a.command = "/bin/a";
      services.b.command = "/bin/b";
      access.forward = true;
      ports.a = {
        guest = 80;
        service = "a";
      };
      ports.b = {
        guest = 80;
        service = "b";
      };
    };
    "a port of the host twice" = refuses "port 8080 of the host is published twice" {
      access.forward = true;
      ports.a = {
        guest = 80;
        host = 8080;
      };
      ports.b = {
        guest = 81;
        host = 8080;
        address = "0.0.0.0";
      };
    };
    "a port behind a closed channel" = refuses "set `access.forward = true`" { ports.a.guest = 80; };
    "a port of a service that is not there" = refuses "ports.a.service is `web`" {
      access.forward = true;
      ports.a = {
        guest = 80;
        service = "web";
      };
    };
    "a sealed image that is open" =
      refuses "the image is sealed, but access.console, access.exec, access.files is open"
        {
          sealed = true;
          dev = true;
        };
    "a sealed image that is closed" = accepts { sealed = true; };
    "a user that is not declared" = refuses "services.web.user is `www`" {
      services.web = {
        command = "/bin/web";
        user = "www";
      };
    };
    "a group that is not declared" = refuses "names the group `web`" {
      services.web = {
        command = "/bin/web";
        user = "nobody:web";
      };
    };
    "an owner that is not declared" = refuses "files.`/etc/x`.user is `app`" {
      files."/etc/x" = {
        text = "";
        user = "app";
      };
    };
    "a number for two users" = refuses "users have the same uid: `a` and `b` (7)" {
      users.a.uid = 7;
      users.b = {
        uid = 7;
        gid = 8;
      };
    };
    "root is not ours to change" = refuses "users.root is there" { users.root.uid = 3; };
    "text and source" = refuses "give either `text` or `source`" { files."/etc/x" = { }; };
    "a source that no build sees" = refuses "which no build can see" {
      files."/etc/x".source = "/etc/passwd";
    };
    "a path that is not absolute" = refuses "write an absolute path" { files."etc/x".text = ""; };
    "a path that climbs" = refuses "write an absolute path" { files."/etc/../x".text = ""; };
    "a path with a line break" = refuses "write an absolute path" { files."/etc/a\nb".text = ""; };
    "a path that ends in a slash" = refuses "write an absolute path" { directories."/srv/" = { }; };
    "a file where the guest mounts" = refuses "/run is not the image's" { files."/run/x".text = ""; };
    "the agent's own policy" = refuses "/etc/mvm/guest.json is not" {
      files."/etc/mvm/guest.json".text = "";
    };
    "a file and a folder" = refuses "both in `files` and in `directories`" {
      files."/srv/x".text = "";
      directories."/srv/x" = { };
    };
    "a shell line for a program" = refuses "is one text with blanks" {
      services.web.command = "/bin/web -p 80";
    };
    "an empty command" = refuses "services.web.command is empty" { services.web.command = [ ]; };
    "a variable that is none" = refuses "cannot be the name of an environment variable" {
      env."A=B" = "";
    };
    "too little memory" = refuses "resources.memory is 32 MiB" { resources.memory = 32; };
    "a kernel of another CPU" = refuses "a guest of x86_64-linux boots `elf`, `bzImage`" {
      kernel.format = "Image";
    };
    "a console without a shell" = refuses "there is no /bin/sh" {
      base = null;
      access.console = true;
    };
    "two ways to be ready" = refuses "give exactly one of `command`, `port` and `notify`" {
      services.web = {
        command = "/bin/web";
        readiness = {
          port = 80;
          notify = true;
        };
      };
    };
    "no way to be ready" = refuses "give exactly one of `command`, `port` and `notify`" {
      services.web = {
        command = "/bin/web";
        readiness = { };
      };
    };
    "an empty check" = refuses "services.web.readiness.command is empty" {
      services.web = {
        command = "/bin/web";
        readiness.command = [ ];
      };
    };
    "network cards" = refuses "network.enable is not supported yet" { network.enable = true; };
    "a volume on the root" = refuses "volumes.data.mountPoint.`/`: write an absolute path" {
      volumes.data.mountPoint = "/";
    };
    "a volume where the guest mounts" = refuses "/run is not the image's" {
      volumes.data.mountPoint = "/run/data";
    };
    "a volume over all programs" =
      refuses "volumes.data.mountPoint is `/nix`, which would hide /nix/store"
        { volumes.data.mountPoint = "/nix"; };
    "two volumes at one place" = refuses "volumes are mounted at the same place: `a` and `b` (/data)" {
      volumes.a.mountPoint = "/data";
      volumes.b.mountPoint = "/data";
    };
    "a volume that is too small" = refuses "volumes.data.size is 8 MiB" {
      volumes.data = {
        mountPoint = "/data";
        size = 8;
      };
    };
    "a volume with an odd name" = refuses "volumes.`Data`: use lower-case letters" {
      volumes.Data.mountPoint = "/data";
    };
    "a volume of nobody we know" = refuses "volumes.`data`.user is `db`" {
      volumes.data = {
        mountPoint = "/data";
        user = "db";
      };
    };
    "a secret of nobody we know" = refuses "secrets.`key`.user is `db`" { secrets.key.user = "db"; };
    "a secret with an odd name" = refuses "secrets.`.key`: use letters" { secrets.".key" = { }; };
    "a secret where a file is" = refuses "secrets.key.path is `/etc/key`, which is in `files`" {
      files."/etc/key".text = "";
      secrets.key.path = "/etc/key";
    };
    "a link on a read-only root" = refuses "where a read-only root cannot have a link" {
      rootfs.readOnly = true;
      secrets.key.path = "/srv/key";
    };
    "verity" = refuses "rootfs.verity is not supported yet" { rootfs.verity = true; };

    # The generated page of docs/ has no holes.
    "every option is described" = equals [ ] (
      map (option: option.name) (
        lib.filter (option: (option.description or "") == "") (
          lib.optionAttrSetToDocList (stub.evaluate [ ]).options
        )
      )
    );
  };

  errors = {
    "an unknown option" = {
      words = "servces";
      value =
        (evaluate (named {
          servces = { };
        })).build.guest;
    };
    "a wrong type" = {
      words = "resources.vcpus";
      value =
        (evaluate (named {
          resources.vcpus = "two";
        })).build.image.defaults;
    };
    "a missing name" = {
      words = "name";
      value = (evaluate [ ]).build.image.name;
    };
    "a service without a command" = {
      words = "services.a.command";
      value =
        (evaluate (named {
          services.a = { };
        })).build.guest.services;
    };
    "a host name that is none" = {
      words = "hostName";
      value =
        (evaluate (named {
          hostName = "a.b";
        })).build.guest.hostName;
    };
    "an unknown restart" = {
      words = "restart";
      value =
        (evaluate (named {
          services.a = {
            command = "/bin/a";
            restart = "sometimes";
          };
        })).build.guest.services;
    };
    "a missing user number" = {
      words = "uid";
      value =
        (evaluate (named {
          users.a = { };
        })).build.image.users;
    };
    "a port that is none" = {
      words = "ports.a.guest";
      value =
        (evaluate (named {
          ports.a.guest = 70000;
        })).build.image.defaults;
    };
    "an address that is none" = {
      words = "ports.a.address";
      value =
        (evaluate (named {
          ports.a = {
            guest = 80;
            address = "1.2.3.400";
          };
        })).build.image.defaults;
    };
    "a size that is none" = {
      words = "resources.memory";
      value =
        (evaluate (named {
          resources.memory = "much";
        })).build.image.defaults;
    };
    "options that contradict each other" = {
      words = "the options of this guest do not fit together";
      value =
        (stub.image (named {
          network.enable = true;
        })).drvPath;
    };
  };
}
