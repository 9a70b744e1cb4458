#![no_main]
#[path = "../bodies/questions.rs"]
mod body;
#[path = "../bodies/source.rs"]
mod source;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
