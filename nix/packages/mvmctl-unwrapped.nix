# mvmctl as cargo builds it, with the guest program beside it.
{
  lib,
  stdenv,
  rustPlatform,
  darwin,
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
    nativeBuildInputs = lib.optional stdenv.hostPlatform.isDarwin darwin.sigtool;
    # Last of all: what changes the program afterwards would break the signature.
    postFixup = lib.optionalString stdenv.hostPlatform.isDarwin ''
      codesign --force --sign - --entitlements ${../../darwin/mvmctl.entitlements} "$out/bin/mvmctl"
    '';
    meta = common.meta // {
      mainProgram = "mvmctl";
      platforms = lib.platforms.linux ++ lib.platforms.darwin;
    };
  }
)
