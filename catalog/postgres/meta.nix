{
  description = "PostgreSQL, reached through the guest channel";
  tags = [
    "database"
    "sql"
  ];
  ports = [ 5432 ];
  category = "database";
}
