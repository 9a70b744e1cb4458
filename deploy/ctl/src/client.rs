//! Requests to a gateway, bounded in time and size. Every error says what to do.

use selvedge_guard::private::read_secret;
use serde_json::Value;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::time::Duration;
use ureq::Agent;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE};
use ureq::http::{Method, Request, StatusCode, Uri};

/// The timeout of a request. The gateway itself waits at most 6 s for the other gateways.
const ANSWER_WAIT_MS: u64 = 15_000;

/// How often an order is sent if the connection breaks before its answer, and the pause in between.
const MAX_ORDER_TRIES: u32 = 5;
const ORDER_AGAIN_MS: u64 = 500;

/// The largest accepted answer. 1,024 shards with their replicas take about 1 MiB.
const MAX_ANSWER_BYTES: u64 = 16 * 1024 * 1024;

/// How many characters of an answer that is not JSON an error shows.
const SHOWN_CHARS: usize = 200;

/// Why a request has no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The token file can't be read, or others can read it too.
    #[error("can't use the token file: {0}")]
    Token(String),
    /// The address of the gateway is not one. The text never holds the address, which may hold a password.
    #[error("--gateway (or SELVEDGE_GATEWAY) {0}; give an address such as http://127.0.0.1:8081")]
    Address(&'static str),
    /// The request failed, timed out, or its answer is too large.
    #[error("no answer from {url}: {why}; check that the gateway runs, or name another one with --gateway")]
    Unreachable { url: String, why: String },
    /// The status is not 200. `detail` comes from the problem document, or else shows the start of the answer.
    #[error("{url} answered {status}: {detail}{hint}")]
    Refused { url: String, status: u16, detail: String, hint: &'static str },
    /// The status is 200, but the answer is not JSON.
    #[error("the answer from {url} is not JSON ({shown:?}): check that this is a gateway's HTTP address")]
    NoJson { url: String, shown: String },
    /// The answer is JSON without a field that it should have.
    #[error("the answer from {url} has no `{field}`: name a gateway's HTTP address with --gateway")]
    NoField { url: String, field: &'static str },
    /// The connection broke each time before an order was answered.
    #[error(
        "the order to {url} was sent {tries} times and not answered: {why}; it may have been carried out, so look with `selvedge site \
         status`, and repeat the command if it was not: repeating does no harm"
    )]
    NoOutcome { url: String, tries: u32, why: String },
    /// What the gateways say rules the order out.
    #[error("{0}")]
    Judged(String),
    /// The file for the token can't be written.
    #[error("can't write the token to {file}: {why}; name a new file in a folder that exists")]
    NotWritten { file: String, why: std::io::Error },
    /// The system gives no random bytes for an idempotency key or a token.
    #[error("can't draw random bytes from /dev/urandom: {0}")]
    NoRandomness(std::io::Error),
}

impl AskError {
    /// Whether the same question may be answered a little later: the gateway does not answer, or says that it can't yet.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Refused { status: 503, .. })
    }
}

/// What an operator can do about a problem of this status and type.
fn hint(orders: bool, status: StatusCode, problem: &Value) -> &'static str {
    match (status, problem["type"].as_str()) {
        (StatusCode::UNAUTHORIZED, _) | (_, Some("/docs#problem-forbidden")) if orders => {
            "; name a file with a token of scope operate with --token-file"
        }
        (StatusCode::UNAUTHORIZED, _) | (_, Some("/docs#problem-forbidden")) => {
            "; name a file with a token of scope read with --token-file"
        }
        (StatusCode::NOT_FOUND, Some("/docs#problem-not-found")) => {
            "; check that this is a gateway's HTTP address, and that its release has this path"
        }
        _ => "",
    }
}

/// A change to the site.
pub struct Order {
    pub method: Method,
    pub path: String,
    pub body: Option<Value>,
}

impl Order {
    pub fn post(path: impl Into<String>, body: Option<Value>) -> Self {
        Self { method: Method::POST, path: path.into(), body }
    }

    pub fn delete(path: impl Into<String>) -> Self {
        Self { method: Method::DELETE, path: path.into(), body: None }
    }
}

/// An HTTP client for one gateway.
pub struct Client {
    agent: Agent,
    gateway: String,
    token: Option<String>,
}

impl Client {
    /// A client for the gateway at this URL; `http://` is added where the scheme is missing.
    ///
    /// # Errors
    /// [`AskError::Address`] or [`AskError::Token`].
    pub fn new(gateway: &str, token_file: Option<&Path>) -> Result<Self, AskError> {
        let gateway = address(gateway).map_err(AskError::Address)?;
        let token = token_file.map(token).transpose().map_err(AskError::Token)?;
        let agent = Agent::config_builder()
            .timeout_global(Some(Duration::from_millis(ANSWER_WAIT_MS)))
            .http_status_as_error(false)
            // No proxy: it would see the token.
            .proxy(None)
            .max_redirects(0)
            .build()
            .new_agent();
        Ok(Self { agent, gateway, token })
    }

    /// Another client for the same gateway.
    pub fn again(&self) -> Self {
        Self { agent: self.agent.clone(), gateway: self.gateway.clone(), token: self.token.clone() }
    }

    /// Gets the JSON at a path, which has a list of this name.
    ///
    /// # Errors
    /// When there is no answer, its status is not 200, it is not JSON, or it has no such list.
    pub fn get(&self, path: &str, list: &'static str) -> Result<Value, AskError> {
        let (url, request) = self.request(&Method::GET, path);
        let answer = request.body(()).map_err(ureq::Error::from).and_then(|request| self.send(request));
        let (status, body) = answer.map_err(|why| unreachable(&url, &why))?;
        read(url, false, status, &body, list, Value::is_array)
    }

    /// Sends an order, which has one idempotency key however often it is sent: again each time when the connection breaks
    /// before the answer, or the gateway can't tell yet what became of the order, at most [`MAX_ORDER_TRIES`] times.
    ///
    /// # Errors
    /// When there is no answer, its status is not 200, or it does not say whether the order changed anything.
    pub fn order(&self, order: &Order) -> Result<Value, AskError> {
        let key = draw::<16>().map_err(AskError::NoRandomness)?;
        let mut tries = 0;
        loop {
            let (url, request) = self.request(&order.method, &order.path);
            let request = request.header("Idempotency-Key", &key);
            let answer = match &order.body {
                None => request.body(()).map_err(ureq::Error::from).and_then(|request| self.send(request)),
                Some(body) => {
                    let request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
                    request.map_err(ureq::Error::from).and_then(|request| self.send(request))
                }
            };
            tries += 1;
            match answer {
                Ok((status, body)) => match (undecided(status, &body), tries) {
                    (None, _) => return read(url, true, status, &body, "changed", Value::is_boolean),
                    (Some(why), MAX_ORDER_TRIES) => return Err(AskError::NoOutcome { url, tries, why }),
                    (Some(_), _) => std::thread::sleep(Duration::from_millis(ORDER_AGAIN_MS)),
                },
                // Nothing listens there, so nothing was ordered.
                Err(why) if tries == 1 && !is_break(&why) => return Err(unreachable(&url, &why)),
                Err(why) if tries == MAX_ORDER_TRIES => {
                    return Err(AskError::NoOutcome { url, tries, why: because(&why) });
                }
                Err(_) => std::thread::sleep(Duration::from_millis(ORDER_AGAIN_MS)),
            }
        }
    }

    fn request(&self, method: &Method, path: &str) -> (String, ureq::http::request::Builder) {
        let url = format!("{}{path}", self.gateway);
        let mut request = Request::builder().method(method).uri(&url);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        (url, request)
    }

    fn send(&self, request: Request<impl ureq::AsSendBody>) -> Result<(StatusCode, Vec<u8>), ureq::Error> {
        let mut answer = self.agent.run(request)?;
        let body = answer.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_vec()?;
        Ok((answer.status(), body))
    }
}

/// Whether a connection broke, or brought nothing in time, after the gateway may have received the request.
fn is_break(why: &ureq::Error) -> bool {
    match why {
        ureq::Error::Io(e) => e.kind() != ErrorKind::ConnectionRefused,
        ureq::Error::Timeout(_) => true,
        _ => false,
    }
}

/// The reason that a gateway gives when an order may still be carried out. What it adds is for programs, which repeat the
/// order with its key, as [`Client::order`] does.
fn undecided(status: StatusCode, body: &[u8]) -> Option<String> {
    let problem: Value =
        serde_json::from_slice(body).ok().filter(|_| status == StatusCode::SERVICE_UNAVAILABLE)?;
    let (why, _) = problem["detail"].as_str()?.split_once("It may still be carried out")?;
    Some(why.trim_end_matches([' ', '.']).to_string())
}

fn because(why: &ureq::Error) -> String {
    match why {
        ureq::Error::Timeout(_) => format!("none came within {} s", ANSWER_WAIT_MS / 1_000),
        why => why.to_string(),
    }
}

fn unreachable(url: &str, why: &ureq::Error) -> AskError {
    AskError::Unreachable { url: url.to_string(), why: because(why) }
}

/// The JSON of an answer with this field.
fn read(
    url: String,
    orders: bool,
    status: StatusCode,
    body: &[u8],
    field: &'static str,
    is_right: fn(&Value) -> bool,
) -> Result<Value, AskError> {
    let text = String::from_utf8_lossy(body);
    let clean = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>();
    let shown = || clean(&text).chars().take(SHOWN_CHARS).collect::<String>();
    let json: Option<Value> = serde_json::from_str(&text).ok();
    match (status, json) {
        (StatusCode::OK, Some(json)) if is_right(&json[field]) => Ok(json),
        (StatusCode::OK, Some(_)) => Err(AskError::NoField { url, field }),
        (StatusCode::OK, None) => Err(AskError::NoJson { shown: shown(), url }),
        (_, json) => {
            let problem = json.unwrap_or_default();
            let detail = problem["detail"].as_str().map_or_else(shown, clean);
            let hint = hint(orders, status, &problem);
            Err(AskError::Refused { url, detail, hint, status: status.as_u16() })
        }
    }
}

/// So many random bytes in hexadecimal digits.
fn draw<const N: usize>() -> std::io::Result<String> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The random part of a recovery's plan.
///
/// # Errors
/// [`AskError::NoRandomness`].
pub fn draw_plan() -> Result<String, AskError> {
    draw::<16>().map_err(AskError::NoRandomness)
}

/// A new one-time token for an invitation.
///
/// # Errors
/// [`AskError::NoRandomness`].
pub fn draw_token() -> Result<String, AskError> {
    draw::<32>().map_err(AskError::NoRandomness)
}

/// The address of a gateway without what follows the port or path; what is wrong with it otherwise.
fn address(gateway: &str) -> Result<String, &'static str> {
    let with_scheme = if gateway.contains("://") { gateway.to_string() } else { format!("http://{gateway}") };
    if with_scheme.contains(['?', '#']) {
        return Err("has a query or a fragment");
    }
    let uri: Uri = with_scheme.parse().map_err(|_| "is not an address")?;
    let authority = uri.authority().filter(|authority| !authority.host().is_empty());
    let authority = authority.ok_or("names no host")?;
    if authority.as_str().contains('@') {
        return Err("has a user name; tokens go into a file for --token-file");
    }
    if authority.as_str() != authority.host() && authority.port_u16().is_none() {
        return Err("has a port that does not exist");
    }
    match uri.scheme_str() {
        Some("http") => Ok(with_scheme.trim_end_matches('/').to_string()),
        Some("https") => Err("is https, which gateways don't speak yet"),
        _ => Err("has a scheme other than http"),
    }
}

/// The token in a file; what is wrong with the file otherwise.
fn token(file: &Path) -> Result<String, String> {
    let token = read_secret(file)?;
    match token.chars().all(|c| c.is_ascii_graphic()) {
        true => Ok(token),
        false => Err(format!(
            "{}: it must hold one token and nothing else, but it has several words or lines, or characters that no token has",
            file.display()
        )),
    }
}
