//! libFuzzer's entry to `mvm_fuzz::protocol::message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mvm_fuzz::protocol::message(data));
