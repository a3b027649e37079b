{
  @INPUTS@
  outputs =
    { self, ... }@inputs:
    let
      run =
        name: script:
        derivation {
          name = "mvm-test-${name}";
          system = "@SYSTEM@";
          builder = "/bin/sh";
          PATH = "/usr/bin:/bin:/run/current-system/sw/bin";
          marker = "@MARKER@";
          # The shell stays the parent: some Nix versions kill a builder whose last command closes its outputs early.
          args = [
            "-c"
            "set -e; ${script}; exit 0"
          ];
        };
      alien = derivation {
        name = "mvm-test-alien";
        system = "@OTHER@";
        builder = "/bin/sh";
        marker = "@MARKER@";
      };
    in
    {
      nixosConfigurations = {
        machine.config.system.build.mvmImage = run "image" "echo image > $out";
        two.config.system.build.mvmImage = run "image-two" "echo image > $out";
        plain.config.system.build = { };
      };
      packages.@OTHER@.default = alien;
      packages.@SYSTEM@ = {
        inherit alien;
        default = run "ok" ''
          echo '@nix { "action": "setPhase", "phase": "buildPhase" }' >&2
          echo one line; printf 'not UTF-8: \377\n'; echo content > $out'';
        "dotted.name" = run "dotted" "echo dotted > $out";
        two = derivation {
          name = "mvm-test-two";
          system = "@SYSTEM@";
          builder = "/bin/sh";
          marker = "@MARKER@";
          outputs = [
            "out"
            "dev"
          ];
          args = [
            "-c"
            "echo o > $out; echo d > $dev; exit 0"
          ];
        };
        from-input = run "from-input" "echo ${inputs.extra or "no input"} > $out";
        fails = run "fails" ''for n in 1 2 3; do echo "line $n"; done; echo 'the last words' >&2; exit 7'';
        talks = run "talks" ''n=0; while [ $n -lt 3000 ]; do n=$((n+1)); echo "line $n"; done; exit 1'';
        endless = run "endless" "echo started; sleep 600";
        # Nix 2.34 may need a line of log to notice a signal.
        ticking = run "ticking" "while echo started; do sleep 0.2; done";
      };
    };
}
