//! The meaning of each parameter, whichever path has it.

use selvedge_http::describe::{durations, limits, names, plain, query_parameter, string, times};
use selvedge_node_core::row::{FUNCTIONS, Function};
use selvedge_node_core::table::Form;
use selvedge_types::params::{DEFAULT_LIMIT_ENTRIES, MAX_LIMIT_ENTRIES};
use serde_json::{Value, json};
use utoipa::openapi::path::Parameter;
use utoipa::openapi::schema::{ObjectBuilder, Type};

/// A parameter by its name, with its meaning and an example.
pub(super) fn parameter(name: &str) -> Parameter {
    let functions = FUNCTIONS.map(|f| f.name).join("|");
    let (description, schema, example): (String, ObjectBuilder, Option<Value>) = match name {
        "site" => ("One site, or a pattern with `*` (`\\*` for the character).".into(), names(), None),
        "device" => {
            ("One device, or a pattern: `press-*` (`\\*` for the character). The node looks up a name, or the part before the first `*`, in an index.".into(), names(), Some(json!("press-*")))
        }
        "stream" => ("One stream, or a pattern.".into(), names(), Some(json!("temperature"))),
        "q" => ("Devices whose name contains this text, in upper or lower case.".into(), names(), None),
        "from" => (
            "The earliest start of a window: RFC 3339 with `Z` or an offset, epoch milliseconds, or seconds as `1764000000s`.".into(),
            times(),
            Some(json!("2025-11-24T00:00:00Z")),
        ),
        "to" => ("The end of the range: only windows that start before it; the same forms as `from`.".into(), times(), Some(json!("2025-11-25T00:00:00Z"))),
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
        "width" => ("Only windows stored at this width.".into(), durations(), Some(json!("10s"))),
        "min" => ("Only gaps of at least this length.".into(), durations(), Some(json!("5m"))),
        "fn" => (
            format!(
                "The statistics to return per row, a comma list of: {}. By default all. `first` and `last` have time and value, `watermark` \
                 both forms of its time. `p50`, `p90` and `p99` are by nearest rank: the reading of rank ceil(0.5 count) and so on, or close to it. \
                 A figure that can't be computed is null (empty in CSV): quantiles where no sketch was kept, a sum beyond the greatest double.",
                Function::names()
            ),
            string(&format!("^({functions})(,({functions}))*$")),
            Some(json!("count,mean,p99")),
        ),
        "group_by" => (
            "What distinguishes rows, a comma list of site, device, stream, or `none`; the node merges across what is not listed. Needs \
             `every`. `streams` is the number of streams merged in a row; a row is complete when each of them is."
                .into(),
            string("^(none|(site|device|stream)(,(site|device|stream)){0,2})$"),
            Some(json!("site,stream")),
        ),
        "fill" => (
            "What to return for spans without readings, between `from` and `to`, of streams that have some there: `none` (no row), \
             `null`, `previous`, `linear`, or a number. Needs `every`, `from` and `to`; a stream's spans have to fit into `limit`. \
             `count` is 0 there, `filled` is true."
                .into(),
            string(r"^(none|null|previous|linear|-?[0-9]+(\.[0-9]+)?)$"),
            Some(json!("linear")),
        ),
        "limit" => (
            format!(
                "The most rows; by default {DEFAULT_LIMIT_ENTRIES} in JSON (`/v1/ledger`: {MAX_LIMIT_ENTRIES}), and all in the other forms."
            ),
            limits(MAX_LIMIT_ENTRIES),
            None,
        ),
        "after" => {
            ("The `next` of an earlier answer, to continue there, with the same other parameters.".into(), string(r"^([0-9]+\.-?[0-9]+|([0-9a-f]{2})*(-([0-9a-f]{2})*)+)$"), None)
        }
        "timeout" => ("How long to wait for the site; 5 s by default.".into(), durations(), Some(json!("2s"))),
        "format" => {
            let all = Form::names();
            let all: Vec<&str> = all.split(", ").collect();
            (
                "The form of the answer. By default `Accept` decides, and without it the answer is JSON.".into(),
                plain(Type::String).enum_values(Some(all)),
                None,
            )
        }
        _ => (String::new(), names(), None),
    };
    query_parameter(name, description, schema, example)
}
