//! libFuzzer's entry to `mvm_fuzz::nix::nix_events`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mvm_fuzz::nix::nix_events(data));
