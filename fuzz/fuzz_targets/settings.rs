#![no_main]
#[path = "../bodies/gateway_settings.rs"]
mod gateway_settings;
#[path = "../bodies/node_settings.rs"]
mod node_settings;
#[path = "../bodies/settings.rs"]
mod settings;
#[path = "../bodies/source.rs"]
mod source;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    gateway_settings::run(&mut source::Source::new(data));
    node_settings::run(&mut source::Source::new(data));
});
