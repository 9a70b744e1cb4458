//! Replays hostile bytes that the fuzzer found and that are worth keeping: see `fuzz/README.md`.

#[path = "../../fuzz/bodies/decode.rs"]
mod decode;
#[path = "../../fuzz/bodies/frames.rs"]
mod frames;
#[path = "../../fuzz/bodies/gateway_queries.rs"]
mod gateway_queries;
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
#[path = "../../fuzz/bodies/session.rs"]
mod session;
#[path = "../../fuzz/bodies/settings.rs"]
mod settings;
#[path = "../../fuzz/bodies/source.rs"]
mod source;

use replay::replay;
use selvedge_types::canary::{self, Canary};
use selvedge_types::params::Parameters;
use selvedge_types::pattern::MAX_TEXT_BYTES;
use selvedge_types::question::{SITE_PARAMETERS, SiteQuery};

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

#[test]
fn clients_and_shards_that_say_anything_to_a_session() {
    replay("session", session::run);
}

/// The kept inputs alone must find each mistake in a session.
#[test]
fn a_session_with_a_mistake_is_found() {
    for mistake in [Canary::AcknowledgedInPart, Canary::SubackBeforeChosen, Canary::TouchedUnnoted] {
        let found = std::thread::spawn(move || {
            canary::make(Some(mistake));
            replay("session", session::run);
        });
        assert!(found.join().is_err(), "{mistake:?} is not found");
    }
}

#[test]
fn queries_of_whatever_bytes() {
    replay("queries", |data| gateway_queries::run(&mut source::Source::new(data)));
}

#[test]
fn a_question_stays_small_and_what_is_said_of_it_however_long_the_address() {
    let long = "x".repeat(MAX_TEXT_BYTES + 1);
    let place = format!("7.{}.{long}", long.len());
    for (key, value, named) in [
        ("device", &long, "device"),
        ("stream", &long, "stream"),
        ("after", &place, "after"),
        (&long, &place, &long[..40]),
    ] {
        let given = vec![(key.to_string(), value.to_string())];
        let given =
            given.into_iter().chain((key != "device").then(|| ("device".to_string(), "d".to_string())));
        let read = Parameters::new(given.collect(), &SITE_PARAMETERS).and_then(|p| SiteQuery::read(&p));
        let bad = read.unwrap_err();
        assert_eq!(bad.parameter, named);
        assert!(bad.why.len() < 200, "{bad}");
    }
}
