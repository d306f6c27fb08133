//! `targets/gateway.rs` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| forebay_fuzz::targets::gateway::run(input));
