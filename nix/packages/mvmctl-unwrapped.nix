# mvmctl as cargo builds it, with the guest program beside it.
{
  lib,
  stdenv,
  rustPlatform,
  common,
  mvm-guest,
}:
rustPlatform.buildRustPackage (
  common
  // {
    pname = "mvmctl-unwrapped";
    cargoBuildFlags = [
      "--package"
      "mvmctl"
    ];
    # The profile `dist` of Cargo.toml.
    buildType = "dist";
    postInstall = lib.optionalString stdenv.hostPlatform.isLinux ''
      install -D ${mvm-guest}/bin/mvm-guest "$out/libexec/mvm/mvm-guest"
    '';
    meta = common.meta // {
      mainProgram = "mvmctl";
      platforms = lib.platforms.linux ++ lib.platforms.darwin;
    };
  }
)
