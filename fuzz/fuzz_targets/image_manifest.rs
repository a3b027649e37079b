//! libFuzzer's entry to `mvm_fuzz::image::image_manifest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mvm_fuzz::image::image_manifest(data));
