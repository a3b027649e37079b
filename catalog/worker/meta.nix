{
  description = "A job that is started again whenever it ends; closed to its host";
  tags = [
    "batch"
    "job"
  ];
  ports = [ ];
  category = "service";
}
