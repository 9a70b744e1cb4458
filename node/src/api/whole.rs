//! Answers in CSV, JSON lines and Parquet that hold all rows: read page by page, and sent as they are read.
//!
//! Memory holds one page at a time, and for Parquet a row group. If an answer can't be completed (the database fails, a
//! limit is reached), the node closes the connection before the last chunk, which every client treats as an error. JSON
//! lines then have a last line that says why; CSV and Parquet files have no place for it.

use super::Api;
use super::problem::Failure;
use crate::lake::parquet;
use actix_web::body::{BodySize, MessageBody};
use actix_web::http::header;
use actix_web::web::Bytes;
use actix_web::{HttpResponse, rt};
use selvedge_node_core::table::{self, Form, Table};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How many of these answers are sent at a time.
pub const MAX_RUNNING_ENTRIES: usize = 8;

/// How many pieces may wait for the socket.
const SOCKET_ENTRIES: usize = 4;

/// The limits of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WholeLimits {
    /// The most rows; beyond them the answer is cut off.
    pub rows_entries: u64,
    /// The longest time until the client has all of it.
    pub time_ms: u64,
}

impl Default for WholeLimits {
    fn default() -> Self {
        Self { rows_entries: 20_000_000, time_ms: 900_000 }
    }
}

/// Tables that follow each other.
pub(super) trait Pages: 'static {
    /// Every page has the same columns.
    type Page: Table;

    /// The next page; `None` after the last. There is at least one page.
    async fn next(&mut self) -> Result<Option<Self::Page>, Failure>;
}

/// Sends all pages. If the first one fails, the answer still has the status of that failure.
pub(super) async fn rows(api: &Api, form: Form, mut pages: impl Pages) -> Result<HttpResponse, Failure> {
    let busy = || Failure::Busy(format!("the node is sending {MAX_RUNNING_ENTRIES} whole answers already"));
    let place = api.whole_places.clone().try_acquire_owned().map_err(|_| busy())?;
    let (limits, stats) = (api.whole_limits, api.stats.clone());
    let first = pages.next().await?;
    let (send, receive) = mpsc::channel(SOCKET_ENTRIES);
    rt::spawn(async move {
        let _place = place;
        let time = Duration::from_millis(limits.time_ms);
        let told = tokio::time::timeout(time, tell(form, first, &mut pages, limits, &send)).await;
        let why = match told {
            Ok(Ok(())) => return,
            Ok(Err(Ended::Gone)) => return,
            Ok(Err(Ended::Cut(why))) => why,
            Err(_) => format!("it took more than {} s; ask for less", limits.time_ms / 1_000),
        };
        if let Some(left_out) = stats.log_due("cut_off", Instant::now()) {
            tracing::warn!(why, "a whole answer was cut off{left_out}");
        }
        if form == Form::Lines {
            let last = format!("{}\n", serde_json::json!({ "error": format!("cut off: {why}") }));
            let _ = send.try_send(Ok(last.into())); // the closed connection shows the failure anyway
        }
        let _ = send.send(Err(CutOff)).await; // the client may be gone
    });
    Ok(HttpResponse::Ok()
        .insert_header((header::VARY, "Accept"))
        .content_type(form.content_type())
        .body(Whole(receive)))
}

/// Why an answer ended early.
enum Ended {
    /// The client closed the connection.
    Gone,
    /// Any other cause, in words.
    Cut(String),
}

/// The error with which the body of a cut answer ends.
#[derive(Debug, thiserror::Error)]
#[error("the answer was cut off")]
struct CutOff;

async fn tell<P: Pages>(
    form: Form,
    first: Option<P::Page>,
    pages: &mut P,
    limits: WholeLimits,
    send: &mpsc::Sender<Result<Bytes, CutOff>>,
) -> Result<(), Ended> {
    let cut = |why: &dyn std::fmt::Display| Ended::Cut(why.to_string());
    let put = async |bytes: Vec<u8>| match bytes.is_empty() {
        true => Ok(()),
        false => send.send(Ok(bytes.into())).await.map_err(|_| Ended::Gone),
    };
    let (mut page, mut rows) = (first, 0);
    let mut encoder = None;
    if let (Some(page), Form::Parquet) = (&page, form) {
        encoder = Some(parquet::for_table(page.fields()).map_err(|e| cut(&e))?);
    }
    if let (Some(page), Form::Csv) = (&page, form) {
        put(table::csv_head(page.fields()).map_err(|e| cut(&e))?).await?;
    }
    while let Some(table) = page {
        rows += table.rows() as u64;
        if rows > limits.rows_entries {
            return Err(Ended::Cut(format!("it has more than {} rows; ask for less", limits.rows_entries)));
        }
        let bytes = match &mut encoder {
            Some(encoder) => encoder.add(&table).map_err(|e| cut(&e))?,
            None if form == Form::Csv => table::csv_rows(&table).map_err(|e| cut(&e))?,
            None => table::lines(&table).map_err(|e| cut(&e))?,
        };
        put(bytes).await?;
        page = pages.next().await.map_err(|failure| cut(&failure.problem().detail))?;
    }
    match encoder {
        Some(encoder) => put(encoder.finish().map_err(|e| cut(&e))?).await,
        None => Ok(()),
    }
}

/// The body of the answer, piece by piece.
struct Whole(mpsc::Receiver<Result<Bytes, CutOff>>);

impl MessageBody for Whole {
    type Error = CutOff;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, CutOff>>> {
        self.0.poll_recv(context)
    }
}
