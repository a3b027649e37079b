# Names, addresses and ports.
{ lib, ... }:
let
  inherit (lib) mkOption types literalExpression;
  own = import ./types.nix { inherit lib; };
  port = {
    options = {
      guest = mkOption {
        type = types.ints.between 1 65535;
        example = 80;
        description = "TCP port that listens in the guest.";
      };
      host = mkOption {
        type = types.port;
        default = 0;
        example = 8080;
        description = ''
          Port of the host that leads to it where the user says nothing; 0 lets the host choose a free one, so that any
          number of VMs of the image can run.
        '';
      };
      address = mkOption {
        type = own.address;
        default = "127.0.0.1";
        description = "Address of the host to listen on.";
      };
      service = mkOption {
        type = types.nullOr types.str;
        default = null;
        description = "Name of the service that listens, so that two services on one port are found out.";
      };
    };
  };
in
{
  options = {
    hostName = mkOption {
      type = types.nullOr (
        types.strMatching "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
        // {
          description = "host name of letters, digits and inner hyphens, at most 63";
        }
      );
      default = null;
      example = "db";
      description = "Host name of the guest, the same in every VM of the image; `null` for the name of its VM.";
    };

    network = {
      enable = mkOption {
        type = types.bool;
        default = false;
        description = "Whether the guest needs a network card. Published ports need none. Not supported yet: an image that asks for it is refused.";
      };
      nameservers = mkOption {
        type = types.listOf own.address;
        default = [ ];
        description = "Resolvers in `/etc/resolv.conf` where the VM's network does not name any.";
      };
      hosts = mkOption {
        type = types.attrsOf (types.listOf (types.strMatching "[A-Za-z0-9.-]+"));
        default = { };
        example = literalExpression ''{ "10.0.0.2" = [ "db" ]; }'';
        description = "Further lines of `/etc/hosts`: names by address.";
      };
    };

    ports = mkOption {
      type = types.attrsOf (types.submodule port);
      default = { };
      example = literalExpression "{ http = { guest = 80; host = 8080; }; }";
      description = "TCP ports of the guest that are published on the host, by a name of their own.";
    };
  };
}
