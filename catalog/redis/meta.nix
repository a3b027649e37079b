{
  description = "Redis with an append-only file";
  tags = [
    "cache"
    "database"
    "key-value"
  ];
  ports = [ 6379 ];
  category = "database";
}
