//! The HTTP client for the site's own processes: one request, bounded in time and size.

use std::net::SocketAddrV4;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The largest answer that is read.
const MAX_ANSWER_BYTES: u64 = 64 * 1024 * 1024;

/// How long an answer may take.
const PATIENCE_MS: u64 = 10_000;

/// How long an answer to a quick look may take.
const GLANCE_MS: u64 = 1_000;

/// The status and the body.
pub type HttpAnswer = (u16, Vec<u8>);

/// Gets a path; nothing if there is no whole answer in time.
pub async fn get(address: SocketAddrV4, path: &str) -> Option<HttpAnswer> {
    let asked = ask(address, path);
    tokio::time::timeout(Duration::from_millis(PATIENCE_MS), asked).await.ok()?
}

/// Gets a path that answers at once or not at all.
pub async fn glance(address: SocketAddrV4, path: &str) -> Option<HttpAnswer> {
    let asked = ask(address, path);
    tokio::time::timeout(Duration::from_millis(GLANCE_MS), asked).await.ok()?
}

/// The JSON of a path; nothing unless it answers 200.
pub async fn glance_json(address: SocketAddrV4, path: &str) -> Option<serde_json::Value> {
    let (status, body) = glance(address, path).await?;
    if status == 200 { serde_json::from_slice(&body).ok() } else { None }
}

/// Sends an order, with this body if it has one; nothing if it is not answered in time.
pub async fn order(
    address: SocketAddrV4,
    method: &str,
    path: &str,
    body: Option<&serde_json::Value>,
) -> Option<HttpAnswer> {
    let body = body.map(ToString::to_string).unwrap_or_default();
    let ordered = exchange(address, method, path, &body);
    tokio::time::timeout(Duration::from_millis(PATIENCE_MS), ordered).await.ok()?
}

async fn ask(address: SocketAddrV4, path: &str) -> Option<HttpAnswer> {
    exchange(address, "GET", path, "").await
}

async fn exchange(address: SocketAddrV4, method: &str, path: &str, body: &str) -> Option<HttpAnswer> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    // HTTP/1.0, so that the end of the answer is the end of the stream.
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await.ok()?;
    parse(&answer)
}

fn parse(answer: &[u8]) -> Option<HttpAnswer> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(answer.get(..end)?).ok()?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    Some((status, answer.get(end + 4..)?.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_or_refused() {
        let (status, body) = parse(b"HTTP/1.0 503 Busy\r\nA: b\r\n\r\n{}").unwrap();
        assert_eq!((status, body.as_slice()), (503, &b"{}"[..]));
        for bad in [&b""[..], b"HTTP/1.0 200 OK\r\n", b"HTTP/1.0\r\n\r\n", b"HTTP/1.0 many\r\n\r\n"] {
            assert_eq!(parse(bad), None);
        }
    }
}
