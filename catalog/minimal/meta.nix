{
  description = "A busybox shell on mvm's own kernel";
  tags = [
    "shell"
    "small"
  ];
  ports = [ ];
  category = "base";
}
