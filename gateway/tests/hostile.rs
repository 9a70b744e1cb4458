//! Hostile bytes that the fuzzer has found worth keeping, replayed: see `fuzz/README.md`.

#[path = "../../fuzz/bodies/decode.rs"]
mod decode;
#[path = "../../fuzz/bodies/frames.rs"]
mod frames;
#[path = "../../fuzz/bodies/gateway_settings.rs"]
mod gateway_settings;
#[path = "../../fuzz/bodies/log.rs"]
mod log;
#[path = "../../fuzz/bodies/machine.rs"]
mod machine;
#[path = "../../fuzz/bodies/questions.rs"]
mod questions;
#[path = "../../fuzz/bodies/replay.rs"]
mod replay;
#[path = "../../fuzz/bodies/replica.rs"]
mod replica;
#[path = "../../fuzz/bodies/settings.rs"]
mod settings;
#[path = "../../fuzz/bodies/source.rs"]
mod source;

use replay::replay;

#[test]
fn devices_that_send_anything() {
    replay("decode", decode::run);
}

#[test]
fn frames_of_whatever_bytes() {
    replay("frames", frames::run);
}

#[test]
fn members_that_say_anything() {
    replay("replica", replica::run);
}

#[test]
fn logs_that_rotted_or_were_forged() {
    replay("log", log::run);
}

#[test]
fn commands_and_snapshots_of_any_kind() {
    replay("machine", machine::run);
}

#[test]
fn nodes_that_ask_anything() {
    replay("questions", questions::run);
}

#[test]
fn settings_of_whatever_text() {
    replay("settings", |data| gateway_settings::run(&mut source::Source::new(data)));
}
