//! `POST /v1/sql`: runs one statement that reads, on the node's database.

use super::Api;
use super::answer;
use super::problem::Failure;
use crate::store::sql::{MAX_STATEMENT_BYTES, SqlAnswer, SqlError, SqlLimits, SqlValue};
use actix_web::http::header;
use actix_web::web::Payload;
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};
use selvedge_node_core::table::{self, Cell, ColumnKind, Field, Form, Table};
use selvedge_types::params::{Parameters, bad};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// The parameters of `/v1/sql`.
pub const PARAMETERS: [&str; 1] = ["format"];

/// How many statements may run at a time.
pub const MAX_RUNNING_ENTRIES: usize = 4;

/// The longest body in bytes: a statement, with room for escapes in JSON.
pub const MAX_BODY_BYTES: usize = 2 * MAX_STATEMENT_BYTES;

/// A statement, and the most rows to return.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SqlQuestion {
    /// One statement that only reads.
    #[schema(
        min_length = 1,
        example = "SELECT device, start, mean FROM hour WHERE stream = 'temperature' ORDER BY start_ms DESC LIMIT 5"
    )]
    sql: String,
    /// The most rows; at most, and by default, the setting `http.sql.limit_rows`.
    #[serde(default)]
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 4_294_967_295_i64)]
    limit: Option<u32>,
}

/// The answer in JSON.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Told {
    columns: Vec<Column>,
    /// Each row has one value for each column.
    #[schema(value_type = Vec<Vec<serde_json::Value>>)]
    rows: Vec<Vec<serde_json::Value>>,
    /// Whether there were more rows than the limits allow.
    truncated: bool,
    /// How long the statement took, in milliseconds.
    elapsed_ms: u64,
}

#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = SqlColumn)]
struct Column {
    name: String,
    /// The type, in the words of the database.
    #[serde(rename = "type")]
    kind: String,
}

pub(super) async fn sql(
    api: web::Data<Api>,
    request: HttpRequest,
    given: super::Given,
    body: Payload,
) -> Result<HttpResponse, Failure> {
    let p = Parameters::new(given.into_inner(), &PARAMETERS)?;
    let form = answer::form(&request, &p)?;
    if form == Form::Parquet {
        let why =
            "this path has no form parquet, because a column may hold values of several kinds; take csv";
        return Err(bad("format", why).into());
    }
    let settings = &api.sql;
    if !settings.enabled {
        return Err(Failure::SqlOff);
    }
    let SqlQuestion { sql, limit } = question(&request, body).await?;
    if limit == Some(0) {
        return Err(Failure::BadBody("`limit` is at least 1".to_string()));
    }
    let limits = SqlLimits {
        time: Duration::from_millis(settings.timeout_ms),
        rows: limit.unwrap_or(u32::MAX).min(settings.limit_rows),
        bytes: settings.limit_bytes,
    };
    let place = api
        .sql_places
        .clone()
        .try_acquire_owned()
        .map_err(|_| Failure::Busy(format!("{MAX_RUNNING_ENTRIES} statements are running already")))?;
    let start = Instant::now();
    let done = api.reader.sql(sql, limits, place).await.map_err(|error| match error {
        SqlError::Statement(why) => Failure::Sql(why),
        SqlError::Time => Failure::TooExpensive(format!(
            "the statement took more than {} ms (setting `http.sql.timeout_ms`)",
            settings.timeout_ms
        )),
        SqlError::Memory(bytes) => {
            Failure::TooExpensive(format!("the statement took more than {bytes} bytes of memory"))
        }
        SqlError::Store(error) => Failure::Store(error),
    })?;
    if done.truncated && done.rows.is_empty() {
        return Err(Failure::TooExpensive(format!(
            "the first row has more than {} bytes (setting `http.sql.limit_bytes`)",
            settings.limit_bytes
        )));
    }
    // A client that gave a limit knows of it. Any other client would take a cut answer for a complete one.
    let asked = limit.is_some_and(|limit| done.rows.len() >= limit as usize);
    if done.truncated && form != Form::Json && !asked {
        return Err(Failure::TooExpensive(format!(
            "the answer has more than {} rows or {} bytes (settings `http.sql.limit_rows` and `http.sql.limit_bytes`), and this form \
             can't say that it is cut off; give a `limit`, or ask for JSON",
            settings.limit_rows, settings.limit_bytes
        )));
    }
    Ok(told(form, done, start.elapsed()))
}

async fn question(request: &HttpRequest, body: Payload) -> Result<SqlQuestion, Failure> {
    let bytes = body.to_bytes_limited(MAX_BODY_BYTES).await;
    let bytes = bytes.map_err(|_| Failure::TooLarge(MAX_BODY_BYTES))?;
    let bytes = bytes.map_err(|_| Failure::BadBody("the body did not arrive completely".to_string()))?;
    match request.content_type().to_ascii_lowercase().as_str() {
        "application/json" => serde_json::from_slice(&bytes).map_err(|_| {
            let why = "the body is not {\"sql\": \"...\"}, with a whole number as \"limit\" beside it to limit the rows";
            Failure::BadBody(why.to_string())
        }),
        "text/plain" | "application/sql" => match String::from_utf8(bytes.to_vec()) {
            Ok(sql) => Ok(SqlQuestion { sql, limit: None }),
            Err(_) => Err(Failure::BadBody("the body is not UTF-8".to_string())),
        },
        _ => Err(Failure::MediaType("application/json, or text/plain with the statement alone")),
    }
}

fn told(form: Form, done: SqlAnswer, took: Duration) -> HttpResponse {
    let mut answer = HttpResponse::Ok();
    answer.content_type(form.content_type()).insert_header((header::VARY, "Accept"));
    if done.truncated {
        // CSV has no place for this.
        answer.insert_header(("Selvedge-Truncated", "true"));
    }
    let body = match form {
        Form::Parquet => None, // refused before anything ran
        Form::Csv => {
            let answer = Answer::new(done);
            let head = table::csv_line(answer.fields.iter().map(|field| field.name.to_string()));
            head.and_then(|head| Ok([head, table::csv_rows(&answer)?].concat())).ok()
        }
        Form::Lines => {
            let rows =
                done.rows.into_iter().map(|row| row.into_iter().map(json).collect::<serde_json::Value>());
            Some(rows.map(|row| format!("{row}\n")).collect::<String>().into_bytes())
        }
        Form::Json => {
            let columns = done.columns.into_iter().map(|(name, kind)| Column { name, kind }).collect();
            let rows = done.rows.into_iter().map(|row| row.into_iter().map(json).collect()).collect();
            let elapsed_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            serde_json::to_vec(&Told { columns, rows, truncated: done.truncated, elapsed_ms }).ok()
        }
    };
    answer.body(body.unwrap_or_default())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn json(value: SqlValue) -> serde_json::Value {
    match value {
        SqlValue::Null => serde_json::Value::Null,
        SqlValue::Flag(yes) => yes.into(),
        SqlValue::Whole(n) => n.into(),
        SqlValue::Real(n) => n.into(),
        SqlValue::Text(text) => text.into(),
        SqlValue::Bytes(bytes) => hex(&bytes).into(),
    }
}

/// The answer as a table, in which bytes are hexadecimal text.
struct Answer {
    fields: Vec<Field>,
    rows: Vec<Vec<SqlValue>>,
}

impl Answer {
    fn new(done: SqlAnswer) -> Self {
        let fields = done.columns.into_iter().map(|(name, _)| Field::new(name, ColumnKind::Text)).collect();
        let plain = |value| match value {
            SqlValue::Bytes(bytes) => SqlValue::Text(hex(&bytes)),
            other => other,
        };
        let rows = done.rows.into_iter().map(|row| row.into_iter().map(plain).collect()).collect();
        Self { fields, rows }
    }
}

impl Table for Answer {
    fn fields(&self) -> &[Field] {
        &self.fields
    }

    fn rows(&self) -> usize {
        self.rows.len()
    }

    fn cell(&self, row: usize, field: usize) -> Cell<'_> {
        match self.rows.get(row).and_then(|row| row.get(field)) {
            Some(SqlValue::Text(text)) => Cell::Text(text),
            Some(SqlValue::Whole(n)) => Cell::Whole(*n),
            Some(SqlValue::Real(n)) => Cell::Real(*n),
            Some(SqlValue::Flag(yes)) => Cell::Flag(*yes),
            _ => Cell::Null,
        }
    }
}
