{ pkgs, ... }:
{
  name = "minimal";
  # Opens console, exec, cp and forward. Without it the guest is closed to its host.
  dev = true;
  packages = [ pkgs.hello ];
}
