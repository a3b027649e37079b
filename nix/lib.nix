# mvm.lib: guests from a nixpkgs.
{
  lib,
  # system -> nixpkgs
  pkgsFor,
  # system -> mvm's packages
  packagesFor,
}:
let
  facts = import ./source.nix;
  # Where mvmctl runs.
  systems = [
    "x86_64-linux"
    "aarch64-linux"
    "aarch64-darwin"
    "x86_64-darwin"
  ];
  # Guests are Linux: on a Mac an image is of the same CPU, built by its Linux builder.
  guestSystem = builtins.replaceStrings [ "-darwin" ] [ "-linux" ];
  guestPkgs =
    { system, pkgs }:
    if pkgs != null then
      pkgs
    else if system != null then
      pkgsFor (guestSystem system)
    else
      throw "a guest needs a `system`, such as \"x86_64-linux\", or the `pkgs` of one";

  mkGuest =
    {
      # The guest's system, or its packages, which tell it.
      system ? null,
      pkgs ? null,
      # Who builds the image: it is packed, not compiled, so another CPU can do it.
      buildPkgs ? guestPkgs { inherit system pkgs; },
      modules,
      specialArgs ? { },
    }:
    (import ./guest.nix { inherit lib; }) {
      inherit modules specialArgs;
      pkgs = guestPkgs { inherit system pkgs; };
      tools = import ./tools.nix {
        inherit lib;
        pkgs = buildPkgs;
      };
      mvm = guestParts (guestPkgs {
        inherit system pkgs;
      });
    };

  # An image from the arguments of nix/image.nix, for a guest that is not made of guest modules.
  mkImage =
    {
      pkgs,
      buildPkgs ? pkgs,
      arguments,
    }:
    (import ./image.nix {
      tools = import ./tools.nix {
        inherit lib;
        pkgs = buildPkgs;
      };
    })
      arguments;

  # What belongs to mvm in every guest.
  guestParts =
    pkgs:
    let
      inherit (pkgs.stdenv.hostPlatform) system;
      packages = packagesFor system;
    in
    {
      inherit system;
      agent = {
        program = "${packages.mvm-guest}/bin/mvm-guest";
        inherit (facts) protocol version;
      };
      base = pkgs.pkgsStatic.busybox;
      kernel = {
        file = "${packages.kernel}/${packages.kernel.mvm.file}";
        inherit (packages.kernel.mvm) format params;
      };
    };

  # One process that serves HTTP, as a user of its own.
  mkHttpService =
    {
      name,
      system,
      pkgs,
      port,
      hostPort,
      healthPath,
      command,
      env,
      modules,
    }:
    mkGuest {
      inherit system pkgs;
      modules = [
        {
          inherit name;
          services.${name} = {
            inherit command env;
            user = "app";
            workingDirectory = "/var/lib/app";
            readiness.port = lib.mkDefault port;
          };
          users.app = {
            uid = 1000;
            home = "/var/lib/app";
          };
          access.forward = true;
          ports.http = {
            guest = port;
            host = hostPort;
            service = name;
          };
          healthChecks.http.command = [
            "/bin/wget"
            "-q"
            "-O"
            "/dev/null"
            "http://127.0.0.1:${toString port}${healthPath}"
          ];
        }
      ]
      ++ modules;
    };
in
{
  inherit systems;
  # `packages = mvm.lib.eachSystem (system: { … });`
  eachSystem = lib.genAttrs systems;

  inherit
    mkGuest
    mkImage
    guestParts
    guestSystem
    ;
  stockKernel = import ./stock-kernel.nix { inherit lib; };

  # A program of a folder, run by Python with packages: `{ name; src; script = "main.py"; packages = ps: [ ps.flask ]; }`.
  # The program is told its port by the variable PORT, and is healthy while it answers healthPath with success.
  mkPythonService =
    {
      name,
      system ? null,
      pkgs ? null,
      src,
      script ? "main.py",
      args ? [ ],
      packages ? (_: [ ]),
      port ? 8000,
      hostPort ? 0,
      healthPath ? "/",
      env ? { },
      modules ? [ ],
    }:
    let
      python = (guestPkgs { inherit system pkgs; }).python3.withPackages packages;
    in
    mkHttpService {
      inherit
        name
        system
        pkgs
        port
        hostPort
        healthPath
        modules
        ;
      command = [
        "${python}/bin/python3"
        "${src}/${script}"
      ]
      ++ args;
      env = {
        PORT = toString port;
        # Lines of the log come when they are written.
        PYTHONUNBUFFERED = "1";
      }
      // env;
    };

  # The same with Node.js. A program with dependencies is built first (nixpkgs: buildNpmPackage), and is then the `src`.
  mkNodeService =
    {
      name,
      system ? null,
      pkgs ? null,
      src,
      script ? "server.js",
      args ? [ ],
      port ? 3000,
      hostPort ? 0,
      healthPath ? "/",
      env ? { },
      modules ? [ ],
    }:
    mkHttpService {
      inherit
        name
        system
        pkgs
        port
        hostPort
        healthPath
        modules
        ;
      command = [
        "${lib.getBin (guestPkgs { inherit system pkgs; }).nodejs}/bin/node"
        "${src}/${script}"
      ]
      ++ args;
      env = {
        PORT = toString port;
        NODE_ENV = "production";
      }
      // env;
    };

  # A folder of files, served by the httpd of busybox.
  mkStaticSite =
    {
      name,
      system ? null,
      pkgs ? null,
      root,
      port ? 8080,
      hostPort ? 0,
      healthPath ? "/",
      modules ? [ ],
    }:
    mkHttpService {
      inherit
        name
        system
        pkgs
        port
        hostPort
        healthPath
        modules
        ;
      command = [
        "/bin/httpd"
        "-f"
        "-p"
        (toString port)
        "-h"
        "${root}"
      ];
      env = { };
    };
}
