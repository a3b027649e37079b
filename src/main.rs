//! `mvmctl`.
fn main() -> std::process::ExitCode {
    mvm_cli::main()
}
