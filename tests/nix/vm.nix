# A NixOS machine with the module: a VM as a unit, reached through its published port, and gone when its unit stops.
{ pkgs, self }:
pkgs.testers.runNixOSTest {
  name = "mvm-nixos-module";

  nodes.machine = {
    imports = [ self.nixosModules.default ];
    virtualisation = {
      cores = 2;
      memorySize = 2048;
      diskSize = 4096;
    };
    programs.mvm.users = [ "alice" ];
    users.users.alice.isNormalUser = true;
    services.mvm.vms.web = {
      # Started by hand, so that the test sees its start.
      autostart = false;
      restart = false;
      # Nested virtualisation may be missing: then the VM runs in software.
      hypervisor = "qemu";
      bootTimeout = 600;
      ports = [ "8080:8080" ];
      guest = {
        services.web.command = [
          "/bin/httpd"
          "-f"
          "-p"
          "8080"
          "-h"
          "${pkgs.writeTextDir "index.html" "hello from a VM in a VM\n"}"
        ];
        access.forward = true;
        access.exec = true;
      };
    };
  };

  testScript = ''
    machine.wait_for_unit("multi-user.target")

    with subtest("what users need is there"):
        machine.succeed("id -nG alice | grep -qw mvm")
        machine.succeed("lsmod | grep -q vhost_vsock")
        machine.succeed("test $(stat -c %G /dev/vhost-vsock) = mvm")

    with subtest("the unit is active once the guest is ready"):
        machine.succeed("systemctl start mvm-web", timeout=900)
        machine.wait_until_succeeds("curl -sf http://127.0.0.1:8080/ | grep 'a VM in a VM'", timeout=60)
        assert "web" in machine.succeed("mvmctl-system ls")
        machine.succeed("mvmctl-system exec web -- true")

    with subtest("it is no root's, and well hardened"):
        machine.succeed("test $(stat -c %U /run/mvm) = mvm")
        exposure = machine.succeed("systemd-analyze security --no-pager mvm-web | tail -n 1")
        assert "OK" in exposure, exposure

    with subtest("it leaves nothing"):
        machine.succeed("systemctl stop mvm-web")
        machine.fail("curl -sf http://127.0.0.1:8080/")
        machine.fail("pgrep -u mvm")
        assert "web" not in machine.succeed("mvmctl-system ls --all")
  '';
}
