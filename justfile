# What one does here, by name. Recipes are thin: cargo and scripts/ do the work. `just` alone lists them.

# Programs that cargo starts find the guest program through .cargo/config.toml.
export PATH := env("CARGO_HOME", env("HOME", "") / ".cargo") / "bin:" + env("PATH")

[private]
default:
    @just --list --unsorted

# Install what building and testing needs (idempotent)
setup:
    scripts/dev-setup.sh

# Build mvmctl and the guest program for development
build: guest
    cargo build -p mvmctl
    {{ if os() == "macos" { "just sign-darwin" } else { "true" } }}

# Run mvmctl: `just run up -d --name demo`
run *ARGS: guest
    cargo run --quiet -p mvmctl -- {{ ARGS }}

# Build what is shipped: stripped, link-time optimised
release-build: guest
    cargo build --profile dist -p mvmctl
    {{ if os() == "macos" { "just sign-darwin target/dist/mvmctl" } else { "true" } }}

# The static guest program (PID 1 and agent)
guest:
    scripts/build-guest.sh

# Our own guest kernel, into the cache
kernel *ARGS:
    scripts/build-kernel.sh {{ ARGS }}

# The fast tests
test *ARGS: guest
    cargo nextest run --workspace {{ ARGS }}

# Everything, as CI runs it: both kernels, both Nix versions, checks
test-all:
    scripts/test.sh

# The tests of one crate
test-crate CRATE *ARGS: guest
    cargo nextest run -p {{ CRATE }} {{ ARGS }}

# The tests whose names contain FILTER
test-filter FILTER *ARGS: guest
    cargo nextest run --workspace {{ ARGS }} -- {{ quote(FILTER) }}

# Format the code
fmt:
    cargo fmt --all

# Clippy, warnings are errors
clippy:
    cargo clippy --workspace --all-targets -- -D warnings

# Sign mvmctl on a Mac, ad hoc: Virtualization.framework runs VMs only for programs with its entitlement
sign-darwin PROGRAM="target/debug/mvmctl":
    codesign --force --sign - --entitlements darwin/mvmctl.entitlements {{ quote(PROGRAM) }}

# Type-check and lint for macOS; makes itself a toolchain, once
check-darwin *ARGS:
    scripts/check-darwin.sh {{ ARGS }}

# Everything that judges without running: format, clippy, shell scripts
lint: clippy
    cargo fmt --all --check
    shellcheck scripts/*.sh scripts/lib/*.sh .ci/run

# What CI runs
ci:
    .ci/run

# Measure the promised numbers and write docs/performance.md
bench *ARGS: guest
    cargo run --release -p xtask -- bench {{ ARGS }}

# Fuzz one target for a bounded time (needs cargo-fuzz and a nightly toolchain)
fuzz TARGET SECONDS="60":
    cargo +nightly fuzz run {{ TARGET }} -- -max_total_time={{ SECONDS }}
