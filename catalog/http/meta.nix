{
  description = "nginx serving a folder";
  tags = [
    "nginx"
    "web"
    "server"
  ];
  ports = [ 8080 ];
  category = "service";
}
