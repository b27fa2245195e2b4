#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| magikrun_fuzz::targets::reference(data));
