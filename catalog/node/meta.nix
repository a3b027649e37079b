{
  description = "Node.js and a shell, open for exec, console and cp";
  tags = [
    "javascript"
    "language"
    "node"
  ];
  ports = [ ];
  category = "language";
}
