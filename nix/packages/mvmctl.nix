# mvmctl with everything that it runs, so that it needs nothing of the machine. A wrapper of its own: it changes with
# every file of the flake, and the program does not.
{
  lib,
  stdenv,
  runCommand,
  makeWrapper,
  qemu,
  firecracker,
  e2fsprogs,
  lima,
  vhost-device-vsock,
  passt,
  nftables,
  mvmctl-unwrapped,
  flake,
  kernel,
  busybox,
}:
let
  inherit (stdenv.hostPlatform) isLinux;
  programs = [
    e2fsprogs
  ]
  ++ lib.optional stdenv.hostPlatform.isDarwin lima
  ++ lib.optionals isLinux [
    qemu
    firecracker
    vhost-device-vsock
    passt
    nftables
  ];
  # Where the user has set nothing.
  defaults = {
    MVM_FLAKE = flake;
  }
  // lib.optionalAttrs isLinux {
    MVM_BUSYBOX = "${busybox}/bin/busybox";
    MVM_KERNEL = "${kernel}";
  };
in
runCommand "mvmctl-${mvmctl-unwrapped.version}"
  {
    nativeBuildInputs = [ makeWrapper ];
    passthru = {
      inherit (mvmctl-unwrapped) version;
      unwrapped = mvmctl-unwrapped;
    };
    inherit (mvmctl-unwrapped) meta;
  }
  ''
    # What the user sets comes first; Nix and git are the user's.
    makeWrapper ${mvmctl-unwrapped}/bin/mvmctl "$out/bin/mvmctl" \
      --prefix PATH : ${lib.makeBinPath programs} \
      ${toString (
        lib.mapAttrsToList (name: value: "--set-default ${name} ${lib.escapeShellArg value}") defaults
      )}
  ''
