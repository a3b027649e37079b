# mvm on NixOS: the tool with the devices that it needs, and VMs as services.
{ mvm, packagesFor }:
{
  imports = [
    (import ./program.nix { inherit packagesFor; })
    (import ./vms.nix { inherit mvm; })
  ];
}
