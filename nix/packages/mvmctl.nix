# mvmctl with everything that it runs, so that it needs nothing of the machine.
{
  lib,
  stdenv,
  rustPlatform,
  makeWrapper,
  qemu,
  firecracker,
  e2fsprogs,
  vhost-device-vsock,
  passt,
  nftables,
  common,
  mvm-guest,
  kernel,
  busybox,
}:
let
  inherit (stdenv.hostPlatform) isLinux;
  programs = [
    qemu
    e2fsprogs
  ]
  ++ lib.optionals isLinux [
    firecracker
    vhost-device-vsock
    passt
    nftables
  ];
in
rustPlatform.buildRustPackage (
  common
  // {
    pname = "mvmctl";
    cargoBuildFlags = [
      "--package"
      "mvmctl"
    ];
    # The profile `dist` of Cargo.toml.
    buildType = "dist";
    nativeBuildInputs = [ makeWrapper ];
    postInstall =
      lib.optionalString isLinux ''
        install -D ${mvm-guest}/bin/mvm-guest "$out/libexec/mvm/mvm-guest"
      ''
      # What the user sets comes first; Nix and git are the user's.
      + ''
        wrapProgram "$out/bin/mvmctl" \
          --prefix PATH : ${lib.makeBinPath programs} ${lib.optionalString isLinux "--set-default MVM_BUSYBOX ${busybox}/bin/busybox --set-default MVM_KERNEL ${kernel}"}
      '';
    meta = common.meta // {
      mainProgram = "mvmctl";
      platforms = lib.platforms.linux ++ lib.platforms.darwin;
    };
  }
)
