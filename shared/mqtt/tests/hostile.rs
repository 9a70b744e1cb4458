//! Hostile bytes that the fuzzer has found worth keeping, replayed: see `fuzz/README.md`.

#[path = "../../../fuzz/bodies/mqtt.rs"]
mod mqtt;
#[path = "../../../fuzz/bodies/replay.rs"]
mod replay;
#[path = "../../../fuzz/bodies/source.rs"]
mod source;

use replay::replay;

#[test]
fn mqtt_clients_that_say_anything() {
    replay("mqtt", mqtt::run);
}
