{
  # More memory, and a setting of the server.
  resources.memory = "1G";
  services.postgres.args = [
    "-c"
    "shared_buffers=256MB"
  ];
}
