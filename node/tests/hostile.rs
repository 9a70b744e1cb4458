//! Hostile bytes that the fuzzer has found worth keeping, replayed: see `fuzz/README.md`.

#[path = "../../fuzz/bodies/node_queries.rs"]
mod node_queries;
#[path = "../../fuzz/bodies/node_settings.rs"]
mod node_settings;
#[path = "../../fuzz/bodies/replay.rs"]
mod replay;
#[path = "../../fuzz/bodies/reports.rs"]
mod reports;
#[path = "../../fuzz/bodies/settings.rs"]
mod settings;
#[path = "../../fuzz/bodies/source.rs"]
mod source;
#[path = "../../fuzz/bodies/sql.rs"]
mod sql;
#[path = "../../fuzz/bodies/uplink.rs"]
mod uplink;

use replay::replay;

#[test]
fn uplinks_that_were_forged_or_say_anything() {
    replay("uplink", uplink::run);
}

#[test]
fn gateways_that_report_and_answer_anything() {
    replay("reports", reports::run);
}

#[test]
fn settings_of_whatever_text() {
    replay("settings", |data| node_settings::run(&mut source::Source::new(data)));
}

#[test]
fn queries_of_whatever_bytes() {
    replay("queries", |data| node_queries::run(&mut source::Source::new(data)));
}

#[test]
fn statements_of_whatever_text() {
    let database = sql::Database::new();
    replay("sql", |data| sql::run(&database, data));
}
