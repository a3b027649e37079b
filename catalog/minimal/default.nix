# A shell, and nothing else: the least that can be booted and looked at.
{ lib, ... }:
{
  name = "minimal";
  dev = true;
  resources.memory = lib.mkDefault 128;
}
