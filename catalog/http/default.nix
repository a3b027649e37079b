# nginx with one page. Replace `files."/srv/www/index.html"`, or mount a site of your own in a module.
{ lib, pkgs, ... }:
{
  name = "http";
  services.nginx = {
    command = "${pkgs.nginx}/bin/nginx";
    args = [
      "-c"
      "/etc/nginx/nginx.conf"
      "-e"
      "stderr"
    ];
    user = "www";
    workingDirectory = "/var/lib/nginx";
    readiness.port = 8080;
  };
  users.www = {
    uid = 80;
    home = "/var/lib/nginx";
  };
  files."/etc/nginx/nginx.conf".text = ''
    daemon off;
    pid /var/lib/nginx/nginx.pid;
    error_log stderr;
    events { }
    http {
      include ${pkgs.nginx}/conf/mime.types;
      # To the console, which `mvmctl logs` shows: a file would grow for as long as the VM lives.
      access_log /dev/stdout;
      client_body_temp_path /var/lib/nginx/body;
      proxy_temp_path /var/lib/nginx/proxy;
      fastcgi_temp_path /var/lib/nginx/fastcgi;
      uwsgi_temp_path /var/lib/nginx/uwsgi;
      scgi_temp_path /var/lib/nginx/scgi;
      server {
        # Without capabilities a user's program listens above 1023.
        listen 8080;
        root /srv/www;
      }
    }
  '';
  files."/srv/www/index.html".text = "<!doctype html><title>mvm</title><p>nginx in a microVM\n";
  healthChecks.http.command = [
    "/bin/wget"
    "-q"
    "-O"
    "/dev/null"
    "http://127.0.0.1:8080/"
  ];
  access.forward = true;
  ports.http = {
    guest = 8080;
    host = lib.mkDefault 8080;
    service = "nginx";
  };
}
