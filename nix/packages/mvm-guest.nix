# The guest program, static (musl): PID 1 and agent of every VM.
{
  lib,
  rustPlatform,
  common,
}:
rustPlatform.buildRustPackage (
  common
  // {
    pname = "mvm-guest";
    cargoBuildFlags = [
      "--package"
      "mvm-guest"
    ];
    # The profile `guest` of Cargo.toml: small, since every VM pays for it.
    buildType = "guest";
    # As scripts/build-guest.sh has it: vector instructions are the slowest that an emulated CPU has.
    env.RUSTFLAGS = "-C target-feature=+crt-static --cfg curve25519_dalek_backend=\"serial\"";
    # One file that needs nothing of its store.
    postInstall = ''
      if ldd "$out/bin/mvm-guest" 2>/dev/null | grep -q '=>'; then
        echo "mvm-guest is not static"
        exit 1
      fi
    '';
    meta = common.meta // {
      description = "Init and agent of an mvm guest";
      mainProgram = "mvm-guest";
      platforms = lib.platforms.linux;
    };
  }
)
