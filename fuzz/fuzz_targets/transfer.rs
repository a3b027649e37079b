//! libFuzzer's entry to `mvm_fuzz::transfer::transfer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mvm_fuzz::transfer::transfer(data));
