//! `/v1/live`: server-sent events with windows as they are applied.

use super::problem::Failure;
use super::routes::Asker;
use super::{Api, Given};
use crate::live::{LiveListener, MAX_LISTENERS_ENTRIES, News};
use actix_web::body::{BodySize, MessageBody};
use actix_web::http::header;
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, web};
use selvedge_guard::access::Caller;
use selvedge_node_core::params::WantedStreams;
use selvedge_node_core::row::{Function, More, Row, RowTable};
use selvedge_node_core::table;
use selvedge_types::params::Parameters;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

/// The parameters of `/v1/live`.
pub const PARAMETERS: [&str; 4] = ["site", "device", "stream", "fn"];

/// How often a comment is sent when there are no events, so that proxies do not take the connection for dead.
pub const KEEP_ALIVE_MS: u64 = 15_000;

/// How long a client is asked to wait before it reconnects.
const RETRY_MS: u64 = 3_000;

/// How many events may wait for the socket.
const SOCKET_ENTRIES: usize = 16;

pub(super) async fn live(
    api: web::Data<Api>,
    Asker(caller): Asker,
    request: HttpRequest,
    given: Given,
) -> Result<HttpResponse, Failure> {
    let p = Parameters::new(given.into_inner(), &PARAMETERS)?;
    let wanted = WantedStreams::read(&p)?;
    let functions = p.list("fn", Function::named, &Function::names())?;
    let listener = api.live.listen().ok_or_else(|| {
        Failure::Busy(format!("{MAX_LISTENERS_ENTRIES} clients listen already, or the node is about to stop"))
    })?;
    let run = api.live.run.0;
    let last = request.headers().get("last-event-id").and_then(|id| id.to_str().ok());
    let mut first = format!("retry: {RETRY_MS}\n\n");
    if let Some(missed) = last.and_then(|id| missed_since(id, run, listener.last)) {
        first.push_str(&lagged(missed));
    }
    let (send, receive) = mpsc::channel(SOCKET_ENTRIES);
    let filter = Filter { caller, wanted, table: RowTable::new(functions.as_deref(), More::default()) };
    actix_web::rt::spawn(feed(listener, filter, run, first, send));
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header(("X-Accel-Buffering", "no"))
        .body(Feed(receive)))
}

/// How many events a client has missed since event `id`: `None` if none, `Some(None)` if unknown.
fn missed_since(id: &str, run: i64, last: u64) -> Option<Option<u64>> {
    let (of_run, number): (i64, u64) =
        id.split_once('-').and_then(|(run, number)| Some((run.parse().ok()?, number.parse().ok()?)))?;
    match last.checked_sub(number) {
        Some(missed) if of_run == run => (missed > 0).then_some(Some(missed)),
        _ => Some(None),
    }
}

fn lagged(missed: Option<u64>) -> String {
    format!("event: lagged\ndata: {}\n\n", serde_json::json!({ "missed": missed }))
}

struct Filter {
    caller: Caller,
    wanted: WantedStreams,
    /// Has no rows between events; it is kept for its columns.
    table: RowTable,
}

impl Filter {
    fn lets(&self, row: &Row) -> bool {
        let fits = |pattern: &Option<selvedge_types::pattern::Pattern>, name: &Option<String>| {
            pattern.as_ref().is_none_or(|pattern| name.as_ref().is_some_and(|name| pattern.matches(name)))
        };
        row.owner.site.as_ref().is_some_and(|site| self.caller.sees(site))
            && fits(&self.wanted.site, &row.owner.site)
            && fits(&self.wanted.device, &row.owner.device)
            && fits(&self.wanted.stream, &row.owner.stream)
    }

    fn event(&mut self, run: i64, number: u64, row: &Row) -> Option<String> {
        self.table.rows = vec![row.clone()];
        let data = table::lines(&self.table).ok()?;
        let data = String::from_utf8(data).ok()?;
        Some(format!("id: {run}-{number}\nevent: window\ndata: {}\n\n", data.trim_end()))
    }
}

/// Writes events until the client or the node is gone.
async fn feed(
    mut listener: LiveListener,
    mut filter: Filter,
    run: i64,
    first: String,
    send: mpsc::Sender<Bytes>,
) {
    let keep_alive = Duration::from_millis(KEEP_ALIVE_MS);
    let mut text = Some(first);
    loop {
        if let Some(text) = text.take()
            && send.send(Bytes::from(text)).await.is_err()
        {
            return;
        }
        let news = tokio::select! {
            news = tokio::time::timeout(keep_alive, listener.news.recv()) => news,
            () = send.closed() => return,
        };
        text = match news {
            Err(_) => Some(": nothing new\n\n".to_string()),
            Ok(Ok(News::Window(number, row))) if filter.lets(&row) => filter.event(run, number, &row),
            Ok(Ok(News::Window(..))) => None,
            Ok(Ok(News::Missed(missed)) | Err(RecvError::Lagged(missed))) => Some(lagged(Some(missed))),
            Ok(Err(RecvError::Closed)) => return,
        };
    }
}

/// The body of the answer, which ends when [`feed`] ends.
struct Feed(mpsc::Receiver<Bytes>);

impl MessageBody for Feed {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(Ok))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_comes_back_hears_what_it_has_missed() {
        assert_eq!(missed_since("7-5", 7, 5), None);
        assert_eq!(missed_since("7-5", 7, 9), Some(Some(4)));
        assert_eq!(missed_since("6-5", 7, 9), Some(None), "another run of the node");
        assert_eq!(missed_since("7-10", 7, 9), Some(None));
        assert_eq!(missed_since("x", 7, 9), None);
    }
}
