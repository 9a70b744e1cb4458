//! Windows as they are applied.

use super::*;
use actix_web::body::MessageBody;
use std::future::poll_fn;
use std::pin::Pin;

/// A client that listens.
struct Client {
    body: Pin<Box<dyn MessageBody<Error = Box<dyn std::error::Error>>>>,
    rest: String,
}

impl Client {
    async fn new(w: &World, path: &str, last: Option<&str>) -> Self {
        let app = test::init_service(App::new().app_data(w.api.clone()).configure(configure)).await;
        let mut request = test::TestRequest::get().uri(path);
        if let Some(last) = last {
            request = request.insert_header(("last-event-id", last));
        }
        let answer = test::call_service(&app, request.to_request()).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(header(answer.headers(), "content-type"), "text/event-stream");
        let mut client = Self { body: Box::pin(answer.into_body()), rest: String::new() };
        assert_eq!(client.event().await.unwrap(), "retry: 3000");
        client
    }

    /// The next event or comment; nothing at the end.
    async fn event(&mut self) -> Option<String> {
        loop {
            if let Some((event, rest)) = self.rest.split_once("\n\n") {
                let event = event.to_string();
                self.rest = rest.to_string();
                return Some(event);
            }
            let bytes = poll_fn(|context| self.body.as_mut().poll_next(context)).await?;
            self.rest.push_str(std::str::from_utf8(&bytes.ok()?).unwrap());
        }
    }

    async fn window(&mut self) -> (String, Value) {
        let event = self.event().await.unwrap();
        let (id, rest) = event.strip_prefix("id: ").unwrap().split_once('\n').unwrap();
        (id.to_string(), serde_json::from_str(rest.strip_prefix("event: window\ndata: ").unwrap()).unwrap())
    }
}

#[actix_web::test]
async fn a_listener_hears_of_what_is_applied_and_wanted() {
    let mut w = World::new().await;
    w.store("press-1", "temp", 10_000, 1).await;
    let mut one = Client::new(&w, "/v1/live?device=press-*&fn=count,sum", None).await;
    let mut all = Client::new(&w, "/v1/live", None).await;
    w.store("saw", "temp", 10_000, 1).await;
    w.store("press-2", "temp", 10_000, 2).await;
    // A window that was there: told as it is now.
    w.store_at("press-1", "temp", 10_000, [0]).await;
    let row = |device: &str, at: i64, count: u64, sum: f64| {
        json!({ "site": "plant-7", "device": device, "stream": "temp", "start": EpochMs(START + at).to_string(),
            "start_ms": START + at, "width_ms": 10_000, "count": count, "sum": sum })
    };
    let heard = [one.window().await, one.window().await, one.window().await];
    let expected = [
        (format!("{START}-2"), row("press-2", 0, 1, 0.0)),
        (format!("{START}-3"), row("press-2", 10_000, 1, 1.0)),
        (format!("{START}-4"), row("press-1", 0, 2, 0.0)),
    ];
    assert_eq!(heard, expected);
    assert_eq!(all.window().await.1["device"], "saw");
    // Who comes back is told what was missed.
    let mut back = Client::new(&w, "/v1/live", Some(&format!("{START}-1"))).await;
    assert_eq!(back.event().await.unwrap(), "event: lagged\ndata: {\"missed\":3}");
    w.api.live.close();
    assert_eq!(one.event().await, None, "the node stops");
}

#[actix_web::test]
async fn listeners_are_bounded_and_a_place_gets_free() {
    use selvedge_node::live::MAX_LISTENERS_ENTRIES;
    let w = World::new().await;
    let held: Vec<_> = (0..MAX_LISTENERS_ENTRIES).map(|_| w.api.live.listen().unwrap()).collect();
    let (status, body) = w.get("/v1/live").await;
    assert_eq!((status, &body["type"]), (503, &json!("/docs#problem-busy")));
    drop(held);
    Client::new(&w, "/v1/live", None).await;
}

#[actix_web::test]
async fn who_is_too_slow_is_told_so() {
    let mut w = World::new().await;
    let mut listener = w.api.live.listen().unwrap();
    let mut client = Client::new(&w, "/v1/live?fn=count", None).await;
    let windows = 2_000 + selvedge_node::live::BEHIND_ENTRIES as i64;
    w.store("d", "s", 10_000, 2_000).await;
    w.store("d", "t", 10_000, windows - 2_000).await;
    let mut heard = 0;
    // Reads at last.
    loop {
        let event = client.event().await.unwrap();
        if event.starts_with("id") {
            heard += 1;
        } else if let Some(data) = event.strip_prefix("event: lagged\ndata: ") {
            heard += serde_json::from_str::<Value>(data).unwrap()["missed"].as_i64().unwrap();
        }
        if heard == windows {
            break;
        }
    }
    assert!(listener.news.try_recv().is_err(), "it was left behind");
}
