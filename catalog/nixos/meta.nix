{
  description = "NixOS with systemd";
  tags = [
    "nixos"
    "systemd"
  ];
  ports = [ ];
  category = "base";
  kind = "nixos";
}
