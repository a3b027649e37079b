{
  description = "A development box with Nix, git and a C compiler";
  tags = [
    "compiler"
    "git"
    "nix"
  ];
  ports = [ ];
  category = "development";
}
