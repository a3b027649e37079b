//! libFuzzer's entry to `mvm_fuzz::protocol::frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mvm_fuzz::protocol::frame(data));
