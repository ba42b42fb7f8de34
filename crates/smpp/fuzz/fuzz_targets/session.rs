#![no_main]
#![allow(dead_code, reason = "each target uses one entry of the harness")]

#[path = "../harness.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|input: &[u8]| harness::session(input));
