//! What each parameter means, whichever path has it.

use super::schema::{plain, string};
use selvedge_node_core::query::{DEFAULT_LIMIT_ENTRIES, MAX_LIMIT_ENTRIES};
use selvedge_node_core::row::{FUNCTIONS, Function};
use selvedge_node_core::table::Form;
use selvedge_shared::balance::Policy;
use serde_json::{Value, json};
use utoipa::openapi::Required;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};

/// What every parameter means, with an example.
pub(super) fn parameter(name: &str) -> Parameter {
    let duration = || string(r"^0*[1-9][0-9]{0,10}(ms|s|m|h|d)?$");
    let names = || plain(Type::String).min_length(Some(1));
    let times = || {
        string(
            r"^(-?[0-9]{1,14}(s|ms)?|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2}))$",
        )
    };
    let functions = FUNCTIONS.map(|f| f.name).join("|");
    let (description, schema, example): (String, ObjectBuilder, Option<Value>) = match name {
        "site" => ("One site, or a pattern with `*` (`\\*` for the character).".into(), names(), None),
        "device" => {
            ("One device, or a pattern: `press-*` (`\\*` for the character). A name, or what stands before the first `*`, is looked up in an index.".into(), names(), Some(json!("press-*")))
        }
        "stream" => ("One stream, or a pattern.".into(), names(), Some(json!("temperature"))),
        "q" => ("Devices whose name holds this, in upper or lower case.".into(), names(), None),
        "from" => (
            "The earliest start of a window: RFC 3339 with `Z` or an offset, epoch milliseconds, or seconds as `1764000000s`.".into(),
            times(),
            Some(json!("2025-11-24T00:00:00Z")),
        ),
        "to" => ("The first start that is too late; the same forms.".into(), times(), Some(json!("2025-11-25T00:00:00Z"))),
        "every" => (
            "Merge windows into spans of this length; a multiple of a stored width. Spans are aligned to 1970-01-01T00:00:00Z, so that \
             `7d` begins on a Thursday; `1w` begins on Monday, `1mo` on the first of the month. `partial` is true where `from` or `to` cuts a \
             span."
                .into(),
            string(r"^0*[1-9][0-9]{0,10}(ms|s|m|h|d|w|mo)?$"),
            Some(json!("1h")),
        ),
        "tz" => (
            "A time zone of the IANA database whose days, weeks or months `every` names: days of 23 to 25 hours. A stored width has to divide \
             the zone's distance from UTC. `start` stays in UTC, with `start_local` beside it."
                .into(),
            string(r"^[A-Za-z0-9_+/-]{1,64}$"),
            Some(json!("Europe/Berlin")),
        ),
        "width" => ("Only windows stored at this width.".into(), duration(), Some(json!("10s"))),
        "min" => ("Only gaps of at least this length.".into(), duration(), Some(json!("5m"))),
        "fn" => (
            format!(
                "What is told of each row, a comma list of: {}. Otherwise all. `first` and `last` have time and value, `watermark` both \
                 forms of its time. `p50`, `p90` and `p99` are by nearest rank: the reading of rank ceil(0.5 count) and so on, or close to it. \
                 What can't be reckoned is null (empty in CSV): quantiles where no sketch was kept, a sum beyond the greatest double.",
                Function::names()
            ),
            string(&format!("^({functions})(,({functions}))*$")),
            Some(json!("count,mean,p99")),
        ),
        "group_by" => (
            "What tells rows apart, a comma list of site, device, stream, or `none`; what is not named is merged. Needs `every`. `streams` \
             says how many were merged in a row; a row is complete when each of them is."
                .into(),
            string("^(none|(site|device|stream)(,(site|device|stream)){0,2})$"),
            Some(json!("site,stream")),
        ),
        "fill" => (
            "What stands for readings in spans that have none, between `from` and `to`, for streams that have some there: `none` (no \
             row), `null`, `previous`, `linear`, or a number. Needs `every`, `from` and `to`; a stream's spans have to fit into `limit`. \
             `count` is 0 there, `filled` is true."
                .into(),
            string(r"^(none|null|previous|linear|-?[0-9]+(\.[0-9]+)?)$"),
            Some(json!("linear")),
        ),
        "limit" => (
            format!(
                "The most rows; in JSON {DEFAULT_LIMIT_ENTRIES} if nothing is said (`/v1/ledger`: {MAX_LIMIT_ENTRIES}), in the other forms all."
            ),
            ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).maximum(Some(MAX_LIMIT_ENTRIES)),
            None,
        ),
        "after" => {
            ("The `next` of an answer, to go on there; with the same other parameters.".into(), string(r"^([0-9]+\.-?[0-9]+|([0-9a-f]{2})*(-([0-9a-f]{2})*)+)$"), None)
        }
        "consistency" => (
            "`linearizable`: every reading acknowledged before the question is in the answer. `stale`: any replica answers, also without \
             a majority."
                .into(),
            plain(Type::String).enum_values(Some(["linearizable", "stale"])),
            None,
        ),
        "policy" => (
            format!("How gateways, and replicas for `stale`, are chosen: {}. The better of two at random if nothing is said.", Policy::NAMES),
            plain(Type::String).enum_values(Some(Policy::NAMES.split(", ").collect::<Vec<_>>())),
            None,
        ),
        "timeout" => ("How long to wait for the edge; 5 s if nothing is said.".into(), duration(), Some(json!("2s"))),
        "format" => {
            let all = Form::names();
            let all: Vec<&str> = all.split(", ").collect();
            (
                "The form of the answer; otherwise `Accept` decides, and JSON if it says nothing.".into(),
                plain(Type::String).enum_values(Some(all)),
                None,
            )
        }
        _ => (String::new(), names(), None),
    };
    let schema = schema.examples(example.clone()).build();
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema))
        .example(example)
        .build()
}

/// The site in a path.
pub(super) fn site_of_path() -> Parameter {
    ParameterBuilder::new()
        .name("site")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some("The site, as `/v1/sites` lists it."))
        .schema(Some(plain(Type::String).min_length(Some(1)).build()))
        .build()
}
