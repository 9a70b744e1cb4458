//! Requests to a gateway, bounded in time and size. Every error says what to do.

use selvedge_guard::private::read_secret;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use ureq::Agent;
use ureq::http::header::AUTHORIZATION;
use ureq::http::{StatusCode, Uri};

/// The timeout of a request. The gateway itself waits at most 6 s for the other gateways.
const ANSWER_WAIT_MS: u64 = 15_000;

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
    /// The answer is JSON without the list that it should have.
    #[error("the answer from {url} has no `{list}`: name a gateway's HTTP address with --gateway")]
    NoList { url: String, list: &'static str },
}

/// What an operator can do about a problem of this status and type.
fn hint(status: StatusCode, problem: &Value) -> &'static str {
    match (status, problem["type"].as_str()) {
        (StatusCode::UNAUTHORIZED, _) | (_, Some("/docs#problem-forbidden")) => {
            "; name a file with a token of scope read with --token-file"
        }
        (StatusCode::NOT_FOUND, Some("/docs#problem-not-found")) => {
            "; check that this is a gateway's HTTP address, and that its release has this path"
        }
        _ => "",
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

    /// Gets the JSON at a path, which has a list of this name.
    ///
    /// # Errors
    /// When there is no answer, its status is not 200, it is not JSON, or it has no such list.
    pub fn get(&self, path: &str, list: &'static str) -> Result<Value, AskError> {
        let url = format!("{}{path}", self.gateway);
        let unreachable = |why: ureq::Error| {
            let why = match why {
                ureq::Error::Timeout(_) => format!("none came within {} s", ANSWER_WAIT_MS / 1_000),
                why => why.to_string(),
            };
            AskError::Unreachable { url: url.clone(), why }
        };
        let mut request = self.agent.get(&url);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let mut answer = request.call().map_err(unreachable)?;
        let status = answer.status();
        let body = answer.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_vec();
        let body = body.map_err(unreachable)?;
        let text = String::from_utf8_lossy(&body);
        let clean = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>();
        let shown = || clean(&text).chars().take(SHOWN_CHARS).collect::<String>();
        let json: Option<Value> = serde_json::from_str(&text).ok();
        match (status, json) {
            (StatusCode::OK, Some(json)) if json[list].is_array() => Ok(json),
            (StatusCode::OK, Some(_)) => Err(AskError::NoList { url, list }),
            (StatusCode::OK, None) => Err(AskError::NoJson { shown: shown(), url }),
            (_, json) => {
                let problem = json.unwrap_or_default();
                let detail = problem["detail"].as_str().map_or_else(shown, clean);
                Err(AskError::Refused { url, detail, hint: hint(status, &problem), status: status.as_u16() })
            }
        }
    }
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
