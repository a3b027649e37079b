{
  description = "Python 3 and a shell, open for exec, console and cp";
  tags = [
    "python"
    "language"
  ];
  ports = [ ];
  category = "language";
}
