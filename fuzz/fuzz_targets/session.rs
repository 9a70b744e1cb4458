#![no_main]
#[path = "../bodies/session.rs"]
mod body;
#[path = "../bodies/source.rs"]
mod source;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
