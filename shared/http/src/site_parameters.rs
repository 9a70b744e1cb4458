//! What the parameters of a query mean that a site answers, asked at one of its gateways or through a node.

use crate::describe::{durations, limits, names, plain, query_parameter, times};
use selvedge_types::balance::Policy;
use selvedge_types::params::{DEFAULT_LIMIT_ENTRIES, MAX_LIMIT_ENTRIES};
use selvedge_types::question::SITE_PARAMETERS;
use serde_json::{Value, json};
use utoipa::openapi::path::Parameter;
use utoipa::openapi::schema::{ObjectBuilder, Type};

/// The parameters of [`SITE_PARAMETERS`], described.
pub fn site_parameters() -> impl Iterator<Item = Parameter> {
    SITE_PARAMETERS.into_iter().map(site_parameter)
}

/// One parameter by its name, which is one of `SITE_PARAMETERS`.
fn site_parameter(name: &str) -> Parameter {
    let (description, schema, example): (String, ObjectBuilder, Option<Value>) = match name {
        "device" => {
            ("One device, or a pattern: `press-*` (`\\*` for the character). Required.".into(), names(), Some(json!("press-*")))
        }
        "stream" => ("One stream, or a pattern.".into(), names(), Some(json!("temperature"))),
        "from" => (
            "Only windows that end after this time: RFC 3339 with `Z` or an offset, epoch milliseconds, or seconds as `1764000000s`. \
             Without it, everything that the site still has."
                .into(),
            times(),
            Some(json!("2025-11-24T00:00:00Z")),
        ),
        "to" => ("Only windows that start before this time; the same forms as `from`.".into(), times(), Some(json!("2025-11-25T00:00:00Z"))),
        "every" => (
            "Merge windows into spans of this length, up to 49 days; a multiple of a width that the site keeps. Spans are aligned to \
             1970-01-01T00:00:00Z."
                .into(),
            durations(),
            Some(json!("1h")),
        ),
        "consistency" => (
            "`linearizable`: every reading acknowledged before the question is in the answer. `stale`: any replica answers, even \
             without a majority."
                .into(),
            plain(Type::String).enum_values(Some(["linearizable", "stale"])),
            None,
        ),
        "policy" => (
            format!("How to choose gateways, and replicas for `stale`: {}. By default the better of two at random.", Policy::NAMES),
            plain(Type::String).enum_values(Some(Policy::NAMES.split(", ").collect::<Vec<_>>())),
            None,
        ),
        "limit" => (format!("The most rows; by default {DEFAULT_LIMIT_ENTRIES}."), limits(MAX_LIMIT_ENTRIES), None),
        _ => (
            "The `next` of an earlier answer, to continue there, with the same other parameters.".into(),
            names(),
            None,
        ),
    };
    query_parameter(name, description, schema, example)
}
