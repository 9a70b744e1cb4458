#![no_main]
#[path = "../bodies/gateway_queries.rs"]
mod gateway_queries;
#[path = "../bodies/node_queries.rs"]
mod node_queries;
#[path = "../bodies/source.rs"]
mod source;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    gateway_queries::run(&mut source::Source::new(data));
    node_queries::run(&mut source::Source::new(data));
});
